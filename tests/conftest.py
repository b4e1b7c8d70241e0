"""What tests need of the machine. One that this machine cannot run is left out loudly, or fails where it is
required: `FABSTIR_REQUIRE=root`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NoReturn

import pytest

LEFT_OUT = pytest.StashKey[dict[str, str]]()
NEEDS_ROOT = "makes network namespaces and mounts file systems, as root on Linux"


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


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> None:
    """Whoever uses it may make namespaces and mount file systems."""
    reason = _missing()
    if reason is not None:
        leave_out(pytestconfig, "root", f"{NEEDS_ROOT}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        terminalreporter.section("TESTS LEFT OUT", sep="!", red=True, bold=True)
        for name, reason in left_out.items():
            terminalreporter.line(f"{name}: {reason}", red=True)
        terminalreporter.line("FABSTIR_REQUIRE=" + ",".join(left_out) + " makes this a failure.", red=True)
