"""libp2p 0.8.1 imports `websockets.legacy`, which warns that it is deprecated; elsewhere a warning fails a test."""

import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from fabstird import config
from fabstird.log import logger as log
from tests.harness import wait_until
from tests.unit.command import Command
from tests.unit.scripted_daemon import TOKEN, ScriptedDaemon, scripted_daemon

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401


# Where no test configures the log: structlog's own default draws each traceback as a panel, which takes 0.3 s.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(autouse=True)
def _the_log_is_put_back() -> Iterator[None]:
    """Logging is of the process, and which tests share one is chance: what a test turns up, no other finds so."""
    root, configured, turned = logging.getLogger(), structlog.get_config(), log.levels()[1]
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in _loggers()}
    yield
    root.handlers[:] = handlers
    for name in log.levels()[1].keys() - turned.keys():
        log.set_level("inherit", name)
    for name in _loggers():
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
    structlog.configure(**configured)


def _loggers() -> list[str | None]:
    """The root, and all others that have been asked for."""
    known = logging.root.manager.loggerDict.items()
    return [None, *(name for name, logger in known if isinstance(logger, logging.Logger))]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDaemon]:
    with scripted_daemon(tmp_path / "api.sock") as daemon:
        monkeypatch.setenv("FABSTIR_API", f"ipc:{daemon.path}")
        before = set(threading.enumerate())
        yield daemon
        wait_until(lambda: not [t for t in set(threading.enumerate()) - before if t.name == "fabstir_client events"])


@pytest.fixture(params=["ipc", "http"])
def either(request: pytest.FixtureRequest, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> ScriptedDaemon:
    """The same daemon over either transport."""
    if request.param == "http":
        monkeypatch.setenv("FABSTIR_API", f"http://127.0.0.1:{daemon.serve_websocket(TOKEN)}")
        monkeypatch.setenv("FABSTIR_TOKEN", TOKEN)
    return daemon


@pytest.fixture
def fabstir(daemon: ScriptedDaemon, tmp_path: Path) -> Command:
    return Command(tmp_path, f"ipc:{daemon.path}")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "peers.json"


@pytest.fixture
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the system's file, which nothing has been put at."""
    monkeypatch.setattr(config.sources, "DEFAULT_FILE", tmp_path / "etc.toml")
    return tmp_path / "etc.toml"
