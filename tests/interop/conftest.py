"""The interop peers as fixtures. A peer that this machine cannot run is left out loudly, or fails where it is required:
`FABSTIR_REQUIRE=js,go,rust` names those that must run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import leave_out
from tests.interop import peers, versions
from tests.interop.matrix import Cell, FeatureCell, Results, render, shown_by

RESULTS = pytest.StashKey[Results]()
# for each cell of the features its tests, by node id: passed or failed; None as long as one was not run
OUTCOMES = pytest.StashKey[dict[FeatureCell, dict[str, bool | None]]]()
CELL = pytest.StashKey[Cell]()  # what a test of the matrix runs, once it runs
VERSIONS = pytest.StashKey[tuple[str, str]]()  # of its peer's implementation and runtime
REPORT = "FABSTIR_INTEROP_REPORT"  # a file to write what works to: `make interop`
VERSIONS_REPORT = "FABSTIR_INTEROP_VERSIONS"  # the same of the versions: `make interop-versions`


def _ensured(config: pytest.Config, name: str) -> None:
    try:
        peers.ENSURE[name]()
    except peers.Missing as error:
        leave_out(config, name, f"interop: {error}")


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
    if os.environ.get(VERSIONS_REPORT) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(VersionsRun(Path(os.environ[VERSIONS_REPORT])))


class VersionsRun:
    """Writes what each row of `test_versions.py` has shown, also where several processes have shown it. Rows that are
    left out stay as the file has them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = {f"test_versions.py::test_row[{versions.name_of(row)}]": row for row in versions.ROWS}
        self._works: dict[versions.Row, bool] = {}
        self._began = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self._rows.get(report.nodeid.rpartition("/")[2])
        if row is not None:
            self._works[row] = report.passed and self._works.get(row, True)

    def pytest_sessionfinish(self) -> None:
        minutes = math.ceil((time.monotonic() - self._began) / 60)
        run = versions.Run(self._works, minutes, os.cpu_count() or 1)
        if self._path.exists():
            run = versions.merged(run, versions.parse(self._path.read_text()))
        self._path.write_text(versions.render(run))


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
    if report.when == "call" and CELL in item.stash:
        results, cell = item.config.stash[RESULTS], item.stash[CELL]
        results.works[cell] = report.passed
        if VERSIONS in item.stash:
            results.versions[cell.implementation] = item.stash[VERSIONS]
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
