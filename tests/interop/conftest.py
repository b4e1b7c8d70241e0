"""The interop peers as fixtures. A peer that this machine cannot run is left out loudly, or fails where it is required:
`FABSTIR_REQUIRE=js,go,rust` names those that must run."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.interop import peers
from tests.interop.matrix import FeatureCell, Results, render, shown_by

LEFT_OUT = pytest.StashKey[dict[str, str]]()
RESULTS = pytest.StashKey[Results]()
# for each cell of the features its tests, by node id: passed or failed; None as long as one was not run
OUTCOMES = pytest.StashKey[dict[FeatureCell, dict[str, bool | None]]]()
REPORT = "FABSTIR_INTEROP_REPORT"  # a file to write what works to: `make interop`


def required() -> set[str]:
    return {name.strip() for name in os.environ.get("FABSTIR_REQUIRE", "").split(",") if name.strip()}


def leave_out(config: pytest.Config, name: str, reason: str) -> None:
    """Ends a test that needs the peer `name`: skipped, or failed where FABSTIR_REQUIRE names it."""
    if name in required():
        pytest.fail(f"FABSTIR_REQUIRE asks for the {name} interop peer: {reason}", pytrace=False)
    config.stash.setdefault(LEFT_OUT, {})[name] = reason
    pytest.skip(f"interop with {name} left out: {reason}")


def _ensured(config: pytest.Config, name: str) -> None:
    try:
        peers.ENSURE[name]()
    except peers.Missing as error:
        leave_out(config, name, str(error))


@pytest.fixture(scope="session")
def js(pytestconfig: pytest.Config) -> None:
    """Whoever uses it has js-libp2p installed; the first one pays for it."""
    _ensured(pytestconfig, "js")


@pytest.fixture(scope="session")
def go(pytestconfig: pytest.Config) -> None:
    """Whoever uses it has the go-libp2p peer built; the first one pays for it."""
    _ensured(pytestconfig, "go")


@pytest.fixture(scope="session")
def rust(pytestconfig: pytest.Config) -> None:
    """Whoever uses it has the rust-libp2p peer built; the first one pays for it."""
    _ensured(pytestconfig, "rust")


@pytest.fixture
def implementation(request: pytest.FixtureRequest) -> str:
    """The implementation that a test is parametrized with, indirectly:
    `peers.across` does that. It is ready to be started."""
    name = str(request.param)
    request.getfixturevalue(name)
    return name


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results({}, {}, {})
    config.stash[OUTCOMES] = {}


def feature_cells(item: pytest.Item) -> list[FeatureCell]:
    if not isinstance(item, pytest.Function):
        return []
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return shown_by(item.path.stem, item.originalname, parameters.get("implementation"))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Those that are deselected later count, too: a feature works when all its tests have passed."""
    for cell in feature_cells(item):
        item.config.stash[OUTCOMES].setdefault(cell, {})[item.nodeid] = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keeps what each cell of the matrix and of the features has shown."""
    report = yield
    if report.failed or (report.when == "call" and report.passed):
        for feature in feature_cells(item):
            item.config.stash[OUTCOMES][feature][item.nodeid] = report.passed
    told = dict(item.user_properties)
    if report.when == "call" and "cell" in told:
        results = item.config.stash[RESULTS]
        results.works[told["cell"]] = report.passed
        if "versions" in told:
            results.versions[told["cell"].implementation] = told["versions"]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not os.environ.get(REPORT):
        return
    results = session.config.stash[RESULTS]
    for cell, outcomes in session.config.stash[OUTCOMES].items():
        if False in outcomes.values():
            results.features[cell] = False
        elif None not in outcomes.values():
            results.features[cell] = True
    Path(os.environ[REPORT]).write_text(render(results))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        terminalreporter.section("INTEROP LEFT OUT", sep="!", red=True, bold=True)
        for name, reason in left_out.items():
            terminalreporter.line(f"{name}: {reason}", red=True)
        terminalreporter.line("FABSTIR_REQUIRE=" + ",".join(left_out) + " makes this a failure.", red=True)
