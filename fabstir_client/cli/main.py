"""``fabstir``: the command-line client.

It is started often and runs for milliseconds, so it uses the blocking client, and imports no event loop library and,
over IPC, no WebSocket library.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from fabstir_client import _stdio
from fabstir_client._command_line import USAGE
from fabstir_client._core.discovery import Target
from fabstir_client.api.errors import FabstirError, InvalidConfig, RpcError
from fabstir_client.cli import arguments, fitting, observe, streams
from fabstir_client.cli.parser import helped, parser

DONE, REFUSED, UNREACHED, TIMED_OUT = 0, 1, 3, 4
MARGIN = 1.0  # seconds for the daemon to answer that its own deadline has passed
PATIENCE = 60.0  # seconds that `wait` waits without --timeout

# Shown on a terminal when a command takes longer than a second.
DOING = {
    "announce": "announcing to peers",
    "connect": "dialling",
    "ping": "waiting for the peer",
    "request": "waiting for the peer",
    "start": "starting the node",
    "stop": "stopping the node",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    try:
        command_line = parser()
        args = command_line.parse_args(argv)
        if args.timeout is not None and args.command != "wait":
            if args.timeout.milliseconds is None:
                command_line.error(f"argument --timeout: {arguments.refusal(args.timeout.text)}")
            if args.timeout.milliseconds == 0:
                command_line.error("argument --timeout: must be more than 0")
        status = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _stdio.discard(1)  # nobody reads the output any more
        return DONE
    except OSError as error:  # of the output: errors of the connection are FabstirErrors
        _stdio.discard(1)
        return _complain(f"the output cannot be written: {error.strerror}", REFUSED)
    except FabstirError as error:
        log_id = error.data.get("logId")
        hint = f"; the daemon's log has the details under {log_id}" if log_id else ""
        return _complain(f"{error}{hint}", _status_of(error))
    return status


def _complain(message: str, status: int) -> int:
    _stdio.complain(f"fabstir: {' '.join(message.split())}")
    return status


def _status_of(error: FabstirError) -> int:
    if isinstance(error, RpcError):
        return REFUSED
    return USAGE if isinstance(error, InvalidConfig) else UNREACHED


def _run(args: argparse.Namespace) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    fitting.fit_to(wide=args.wide)
    target = Target(args.api, args.data_dir)
    args.deadline = None if args.timeout is None else time.monotonic() + args.timeout.seconds
    if args.command == "events":
        from fabstir_client.cli.events import follow, held

        if args.hook is not None and not args.follow:
            return _complain("--exec needs --follow: fabstir events --follow --exec COMMAND", USAGE)
        return (follow if args.follow else held)(target, args, _complain)
    if args.command == "help":
        return helped(args.about)
    if args.command in streams.COMMANDS:
        return streams.run(target, args, _complain)
    if args.command in observe.RUN_BY:
        return observe.run(target, args, _complain)
    if args.command == "wait":
        from fabstir_client.cli.events import wait

        seconds = PATIENCE if args.timeout is None else args.timeout.seconds
        return wait(target, args.condition, seconds, as_json=args.json, complain=_complain)
    return _call(target, args)


def _call(target: Target, args: argparse.Namespace) -> int:
    """Run a command that makes one call, and print the result."""
    from fabstir_client._core.calls import raw_method
    from fabstir_client._core.protocol import decoded
    from fabstir_client._sync.calling import call_once
    from fabstir_client.cli.format import readable
    from fabstir_client.cli.progress import progress
    from fabstir_client.cli.results import failed, show

    method, params = args.call(args)
    deadline = args.deadline
    if deadline is not None and getattr(args, "timed", False):
        params["timeout"] = max(1, args.timeout.milliseconds)
        deadline += MARGIN
    with progress(DOING.get(args.command, "waiting for the daemon")):
        raw = bytes(call_once(target, raw_method(method, params), deadline))
    result = decoded(method, raw)
    words = failed(method, result)
    if args.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(raw + b"\n")
        return DONE if words is None else REFUSED
    if words is not None:
        return _complain(words, REFUSED)
    render = getattr(args, "show", None)
    if text := show(args.command, result) if render is None else readable(render, result):
        print(text)
    if (note := getattr(args, "note", None)) is not None:
        _stdio.complain(readable(note, result))
    return DONE
