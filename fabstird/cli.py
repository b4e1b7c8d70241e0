"""``fabstird run | check-config | id | openrpc | completion``."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fabstir_client import _shells, _stdio
from fabstir_client._command_line import Parser
from fabstird import __version__

if TYPE_CHECKING:
    from fabstird.signals import Signals

STOPPED, CRASHED, MISCONFIGURED, IN_USE, CANNOT_BIND = range(5)


class _Parser(Parser):
    """Shows how a command is used, too, where there is a mistake: there are few options."""

    def error(self, message: str) -> NoReturn:
        _stdio.complain(self.format_usage().rstrip())
        super().error(message)


def main(arguments: list[str] | None = None, *, signals: Signals | None = None) -> NoReturn:
    """Run the command and end the process with its exit status. ``signals`` are already armed; `run` uses them."""
    try:
        options = parser().parse_args(arguments)
        status = int(options.run(options, signals) if options.run is _run else options.run(options))
    except SystemExit as ended:  # raised by argparse
        status = ended.code if isinstance(ended.code, int) else MISCONFIGURED
    except OSError as error:
        status = _unwritten(error)
    failure = _stdio.finish()
    if failure is not None and status == STOPPED:
        status = _unwritten(failure)
    if signals is not None:
        import logging

        signals.finish()
        logging.shutdown()
        os._exit(status)  # tearing the interpreter down takes longer than the whole stop before it, and frees nothing
    sys.exit(status)


def _unwritten(error: OSError) -> int:
    """The exit status of a command whose output cannot be written. A reader that has gone has seen enough."""
    _stdio.discard(1)
    if isinstance(error, BrokenPipeError):
        return STOPPED
    return _fail(CRASHED, f"the output cannot be written: {error.strerror}")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; the man page is generated from it too."""
    parser = _Parser(prog="fabstird", description="A local peer-to-peer daemon on libp2p.")
    parser.add_argument("--version", action="version", version=f"fabstird {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the daemon in the foreground")
    run.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
    run.add_argument("--data-dir", metavar="DIR", help="where identity, token and known peers are kept")
    run.add_argument("--set", metavar="section.key=value", action="append", default=[], help="override one key")
    run.set_defaults(run=_run)

    check = commands.add_parser("check-config", help="validate the configuration and print what is in effect")
    named = check.add_mutually_exclusive_group()
    named.add_argument("file", metavar="FILE", nargs="?", help="configuration file; default: the one `run` would read")
    named.add_argument("--config", metavar="FILE", help="the same, as `run` takes it")
    check.add_argument("--set", metavar="section.key=value", action="append", default=[], help="override one key")
    check.add_argument("--strict", action="store_true", help="end with 2 where there is a warning, too")
    check.add_argument("--toml", action="store_true", help="print it as a file to start from, with every key explained")
    check.set_defaults(run=_check_config)

    identity = commands.add_parser("id", help="print the peer id, making the identity if there is none")
    identity.add_argument("--data-dir", metavar="DIR", help="where the identity is kept")
    identity.set_defaults(run=_id)

    openrpc = commands.add_parser("openrpc", help="print the OpenRPC document of the API")
    openrpc.add_argument("--markdown", action="store_true", help="the same for people, as it stands in docs/api.md")
    openrpc.set_defaults(run=_openrpc)

    shell = commands.add_parser("completion", help="print what makes a shell complete fabstird's commands")
    shell.add_argument("shell", metavar="SHELL", choices=_shells.SHELLS, help=f"one of {', '.join(_shells.SHELLS)}")
    shell.set_defaults(run=_completion)

    return parser


def _run(options: argparse.Namespace, signals: Signals | None = None) -> int:
    # Imports make a million objects and hardly any garbage: collecting takes a sixth of the start. `load_libp2p`, the
    # last import, switches the collector on again.
    gc.disable()
    from fabstird import config

    if (missing := _missing()) is not None:
        return missing
    try:
        settings = config.load(options.config, os.environ, options.set)
    except config.ConfigError as error:
        return _fail_service(MISCONFIGURED, *error.mistakes)

    import trio

    from fabstird.signals import Signals

    signals = signals or Signals()
    # The watchdog ends a blocked loop with SIGABRT; the log then shows the line of Python that blocked it
    faulthandler.enable()
    from fabstird.log import logger as log

    log.configure(settings.log.level, settings.log.format)

    from fabstird import daemon, datadir
    from fabstird.api.errors import BindError
    from fabstird.identity import IdentityError

    try:
        data_dir = datadir.locate(options.data_dir)
    except datadir.DataDirError as error:
        return _fail_service(MISCONFIGURED, str(error))
    launch = daemon.Launch(
        config_file=Path(options.config) if options.config else None,
        overrides=tuple(options.set),
        data_dir=data_dir,
        data_dir_given=options.data_dir is not None,
    )
    expected = {
        datadir.DataDirError: MISCONFIGURED,
        IdentityError: MISCONFIGURED,
        datadir.DataDirInUse: IN_USE,
        BindError: CANNOT_BIND,
    }
    try:
        trio.run(daemon.run, launch, settings, signals)
    except Exception as error:  # noqa: BLE001 - the process ends here; any error is reported and decides the status
        leaves = _leaves(error)
        statuses = {expected.get(type(leaf), CRASHED) for leaf in leaves}
        crashed = CRASHED in statuses
        if crashed:
            log.get_logger("daemon").critical("daemon crashed", traceback="".join(traceback.format_exception(error)))
        # The log has its own thread, and none of its lines may be written into the middle of the last one
        readable = log.finish()
        status, lines = statuses.pop(), [str(leaf) for leaf in leaves]
        if crashed:
            status, lines = CRASHED, [f"crashed: {leaves[0]!r}; the log has the traceback"]
        # Where nobody reads standard error, nothing may wait for it
        return _fail_service(status, *lines) if readable else status
    return STOPPED


def _check_config(options: argparse.Namespace) -> int:
    from fabstird import config

    try:
        settings = config.load(options.file if options.config is None else options.config, os.environ, options.set)
    except config.ConfigError as error:
        return _fail(MISCONFIGURED, *error.mistakes)
    from fabstird.doubts import doubts

    found = list(doubts(settings))
    _fail(STOPPED, *(f"warning: {line}" for line in found))
    if found and options.strict:
        return MISCONFIGURED
    if options.toml:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # TOML is UTF-8 in every locale
        print(config.render(settings), end="")
    else:
        print(json.dumps(settings.to_dict(), indent=2))
    return STOPPED


def _id(options: argparse.Namespace) -> int:
    if (missing := _missing()) is not None:
        return missing
    from fabstird import datadir, identity, systemd

    try:
        directory = datadir.locate(options.data_dir)
        datadir.prepare(directory)
        print(identity.load_or_make(systemd.credential("identity.key") or directory / "identity.key").peer_id)
    except (datadir.DataDirError, identity.IdentityError) as error:
        return _fail(MISCONFIGURED, str(error))
    return STOPPED


def _openrpc(options: argparse.Namespace) -> int:
    if (missing := _missing()) is not None:
        return missing
    from fabstird.rpc import markdown, openrpc
    from fabstird.rpc.methods.table import METHODS

    render = markdown.render if options.markdown else openrpc.render
    sys.stdout.write(render(METHODS).decode())
    return STOPPED


def _completion(options: argparse.Namespace) -> int:
    from fabstir_client._shells.words import Words
    from fabstird import config

    keys = tuple(f"{section}.{key}=" for section, keys in config.Config().to_dict().items() for key in keys)
    print(_shells.script(options.shell, parser(), Words({"section.key=value": keys})), end="")
    return STOPPED


def _missing() -> int | None:
    """Report missing libraries of the ``daemon`` extra before any of them is imported."""
    needed = ("trio", "libp2p", "quart_trio", "hypercorn", "jsonrpcserver", "structlog", "prometheus_client")
    absent = [name for name in needed if find_spec(name) is None]
    if not absent:
        return None
    return _fail(MISCONFIGURED, f"{', '.join(absent)} not installed; install the daemon: pip install 'fabstir[daemon]'")


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested exception groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _fail(status: int, *lines: str) -> int:
    for line in lines:
        _stdio.complain(f"fabstird: {line}")
    return status


def _fail_service(status: int, *lines: str) -> int:
    """Fail with ``status``, and report the lines to systemd too: `systemctl status` shows them after the process has
    ended."""
    from fabstird import systemd

    systemd.notify(systemd.status("; ".join(lines)))
    return _fail(status, *lines)
