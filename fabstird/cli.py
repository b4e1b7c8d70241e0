"""``fabstird run | check-config | id | openrpc``. CONTRACT, section 1."""

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
from typing import NoReturn

from fabstird import __version__

STOPPED, CRASHED, MISCONFIGURED, IN_USE, CANNOT_BIND = range(5)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command's entry point; ends the process with CONTRACT's exit status."""
    options = parser().parse_args(arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone: `fabstird openrpc | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = STOPPED
    sys.exit(status)


def parser() -> argparse.ArgumentParser:
    """The whole command line; the man page is made from it, too."""
    parser = argparse.ArgumentParser(prog="fabstird", description="A local peer-to-peer daemon on libp2p.")
    parser.add_argument("--version", action="version", version=f"fabstird {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the daemon in the foreground")
    run.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
    run.add_argument("--data-dir", metavar="DIR", help="where identity, token and known peers are kept")
    run.add_argument("--set", metavar="section.key=value", action="append", default=[], help="override one key")
    run.set_defaults(run=_run)

    check = commands.add_parser("check-config", help="validate the configuration and print what is in effect")
    check.add_argument("file", metavar="FILE", nargs="?", help="configuration file; default: the one `run` would read")
    check.add_argument("--set", metavar="section.key=value", action="append", default=[], help="override one key")
    check.set_defaults(run=_check_config)

    identity = commands.add_parser("id", help="print the peer id, making the identity if there is none")
    identity.add_argument("--data-dir", metavar="DIR", help="where the identity is kept")
    identity.set_defaults(run=_id)

    openrpc = commands.add_parser("openrpc", help="print the OpenRPC document of the API")
    openrpc.add_argument("--markdown", action="store_true", help="the same for people, as it stands in docs/api.md")
    openrpc.set_defaults(run=_openrpc)

    return parser


def _run(options: argparse.Namespace) -> int:
    # Imports make a million objects and hardly any garbage: looking for it costs a sixth of the start. `load_libp2p`,
    # which is the last of it, switches the collector on again.
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

    signals = Signals()
    # The watchdog ends a blocked loop by SIGABRT: the log then has the line of Python that blocked it
    faulthandler.enable()
    from fabstird import log

    log.configure(settings.log.level, settings.log.format)

    from fabstird import daemon, datadir
    from fabstird.api.errors import BindError
    from fabstird.identity import IdentityError

    launch = daemon.Launch(
        config_file=Path(options.config) if options.config else None,
        overrides=tuple(options.set),
        data_dir=datadir.locate(options.data_dir),
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
    except Exception as error:  # noqa: BLE001 - the process ends here; whatever it was is told and decides the status
        leaves = _leaves(error)
        statuses = {expected.get(type(leaf), CRASHED) for leaf in leaves}
        if statuses & {CRASHED}:
            log.get_logger("daemon").critical("daemon crashed", traceback="".join(traceback.format_exception(error)))
            return _fail_service(CRASHED, f"crashed: {leaves[0]!r}; the log has the traceback")
        return _fail_service(statuses.pop(), *map(str, leaves))
    return STOPPED


def _check_config(options: argparse.Namespace) -> int:
    from fabstird import config

    try:
        settings = config.load(options.file, os.environ, options.set)
    except config.ConfigError as error:
        return _fail(MISCONFIGURED, *error.mistakes)
    print(json.dumps(settings.to_dict(), indent=2))
    return STOPPED


def _id(options: argparse.Namespace) -> int:
    if (missing := _missing()) is not None:
        return missing
    from fabstird import datadir, identity, systemd

    directory = datadir.locate(options.data_dir)
    try:
        datadir.prepare(directory)
        print(identity.load_or_make(systemd.credential("identity.key") or directory / "identity.key").peer_id)
    except (datadir.DataDirError, identity.IdentityError) as error:
        return _fail(MISCONFIGURED, str(error))
    return STOPPED


def _openrpc(options: argparse.Namespace) -> int:
    if (missing := _missing()) is not None:
        return missing
    from fabstird.rpc import markdown, openrpc
    from fabstird.rpc.methods import METHODS

    render = markdown.render if options.markdown else openrpc.render
    sys.stdout.write(render(METHODS).decode())
    return STOPPED


def _missing() -> int | None:
    """The daemon's libraries come with an extra; without it, say so before any of them is imported."""
    needed = ("trio", "libp2p", "quart_trio", "hypercorn", "jsonrpcserver", "structlog", "prometheus_client")
    absent = [name for name in needed if find_spec(name) is None]
    if not absent:
        return None
    return _fail(MISCONFIGURED, f"{', '.join(absent)} not installed; install the daemon: pip install 'fabstir[daemon]'")


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside the groups that nurseries put around them."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _fail(status: int, *lines: str) -> int:
    for line in lines:
        print(f"fabstird: {line}", file=sys.stderr)
    return status


def _fail_service(status: int, *lines: str) -> int:
    """The same for `run`; `systemctl status` goes on showing the words when the process has gone."""
    from fabstird import systemd

    systemd.notify(systemd.status("; ".join(lines)))
    return _fail(status, *lines)
