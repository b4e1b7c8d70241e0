"""The entry point of the ``fabstir`` command; `main` does the work."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from fabstir_client import _stdio

REFUSED = 1


def main() -> NoReturn:
    """Run the command and exit with its status. An interrupted command dies of SIGINT, as shells expect."""
    try:
        _stdio.open_all()
        from fabstir_client.cli.main import main as run

        status = run()
    except KeyboardInterrupt:
        _stdio.finish()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
        raise  # if SIGINT is blocked
    except SystemExit as ended:  # argparse's own
        status = ended.code if isinstance(ended.code, int) else REFUSED
    failure = _stdio.finish()
    if failure is not None and not isinstance(failure, BrokenPipeError) and status == 0:
        _stdio.complain(f"fabstir: the output cannot be written: {failure.strerror}")
        status = REFUSED
    sys.exit(status)
