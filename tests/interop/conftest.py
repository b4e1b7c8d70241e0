"""The interop peers as fixtures. A peer that this machine cannot run is left out loudly, or fails where it is required:
`FABSTIR_REQUIRE=js,go,rust` names those that must run."""

from __future__ import annotations

import os

import pytest

from tests.interop import jspeer

LEFT_OUT = pytest.StashKey[dict[str, str]]()


def required() -> set[str]:
    return {name.strip() for name in os.environ.get("FABSTIR_REQUIRE", "").split(",") if name.strip()}


def leave_out(config: pytest.Config, name: str, reason: str) -> None:
    """Ends a test that needs the peer `name`: skipped, or failed where FABSTIR_REQUIRE names it."""
    if name in required():
        pytest.fail(f"FABSTIR_REQUIRE asks for the {name} interop peer: {reason}", pytrace=False)
    config.stash.setdefault(LEFT_OUT, {})[name] = reason
    pytest.skip(f"interop with {name} left out: {reason}")


@pytest.fixture(scope="session")
def js(pytestconfig: pytest.Config) -> None:
    """Whoever uses it has js-libp2p installed; the first one pays for it."""
    try:
        jspeer.ensure_installed()
    except jspeer.JsMissing as error:
        leave_out(pytestconfig, "js", str(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        terminalreporter.section("INTEROP LEFT OUT", sep="!", red=True, bold=True)
        for name, reason in left_out.items():
            terminalreporter.line(f"{name}: {reason}", red=True)
        terminalreporter.line("FABSTIR_REQUIRE=" + ",".join(left_out) + " makes this a failure.", red=True)
