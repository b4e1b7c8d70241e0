"""The first instructions of ``fabstird``: descriptors and signals, before any import that takes time.

A daemon told to stop, to reload or to show its tasks in its first tenth of a second does so as soon as it can.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from fabstir_client import _stdio


def main() -> NoReturn:
    """The entry point; ends the process with its exit status."""
    _stdio.open_all()
    signals = None
    if "run" in sys.argv[1:2]:
        from fabstird.signals import Signals

        signals = Signals()
    else:
        # other commands end by it as any program does, without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fabstird.cli import main

    main(signals=signals)


if __name__ == "__main__":
    main()
