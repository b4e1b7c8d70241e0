"""What tests need of the machine. One that this machine cannot run is left out loudly, or fails where it is
required: `FABSTIR_REQUIRE=root`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# The same examples in every run, and no time limit for one: the machine may be busy with other things. Here, since
# whoever asks for other settings gets the rest of them when its module is imported.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

LEFT_OUT = pytest.StashKey[dict[str, str]]()
NEEDS_ROOT = "makes network namespaces and mounts file systems, as root on Linux"
ONE_MACHINE = "tests/service/"  # one process runs all that is in there but
OWN_MACHINE = "tests/service/test_deb.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=("together", "alone"),
        help="only the tests that may run side by side, or only those marked `alone`; without it, all",
    )


def pytest_configure() -> None:
    # A shell starts what it runs in the background (`make test &`) with interrupts ignored, and tests hand that on to
    # what they start
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    part = config.getoption("--part")
    if part is None:
        return
    chosen = [item for item in items if (item.get_closest_marker("alone") is not None) == (part == "alone")]
    config.hook.pytest_deselected(items=list(set(items) - set(chosen)))
    if part == "together":  # what one process has for minutes, and mostly waits, is begun before all others
        chosen.sort(key=lambda item: scope(item.nodeid) != ONE_MACHINE)
    items[:] = chosen


def scope(nodeid: str) -> str:
    """What goes to one process with it: its file, or all that is done in the one machine."""
    file = nodeid.partition("::")[0]
    return ONE_MACHINE if file.startswith(ONE_MACHINE) and file != OWN_MACHINE else file


class Scheduling(LoadFileScheduling):
    """A file to a worker; but one takes all tests of the service, so that their machine is made once."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def _missing() -> str | None:
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}"
    if os.geteuid() != 0:
        return f"this is user {os.geteuid()}"
    for tool in ("ip", "nsenter", "unshare", "setpriv", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` here (packages iproute2, util-linux)"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else None


def leave_out(config: pytest.Config, name: str, reason: str) -> NoReturn:
    """Ends a test that needs `name`: skipped, and told at the end; or failed, where FABSTIR_REQUIRE names it."""
    if name in os.environ.get("FABSTIR_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"FABSTIR_REQUIRE asks for {name}: {reason}", pytrace=False)
    config.stash.setdefault(LEFT_OUT, {})[name] = reason
    pytest.skip(f"left out: {reason}")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In place of pytest's, whose path has the test's name in it: daemons keep their sockets there, and the path of a
    Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="fabstir-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> None:
    """Whoever uses it may make namespaces and mount file systems."""
    reason = _missing()
    if reason is not None:
        leave_out(pytestconfig, "root", f"{NEEDS_ROOT}: {reason}")


@pytest.fixture(scope="session")
def nat(pytestconfig: pytest.Config, root: None) -> None:
    """Whoever uses it may make routers of namespaces."""
    if shutil.which("nft") is None:
        leave_out(pytestconfig, "root", "there is no `nft` here (package nftables)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands what it left out to the process that prints the summary."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = json.dumps(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object | None) -> None:
    output: dict[str, Any] = getattr(node, "workeroutput", {})  # absent where the worker crashed
    node.config.stash.setdefault(LEFT_OUT, {}).update(json.loads(output.get("left_out", "{}")))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        terminalreporter.section("TESTS LEFT OUT", sep="!", red=True, bold=True)
        for name, reason in left_out.items():
            terminalreporter.line(f"{name}: {reason}", red=True)
        terminalreporter.line("FABSTIR_REQUIRE=" + ",".join(left_out) + " makes this a failure.", red=True)
