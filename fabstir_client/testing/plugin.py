"""Pytest's fixtures `fabstird`, `fabstird_pair` and `scripted_fabstird`. The mark `fabstird` has settings of real ones:

@pytest.mark.fabstird({"node.max_retries": 0})
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported when a test asks for it: pytest loads this file in every project
    from fabstir_client.testing.daemon import Daemon, Pair
    from fabstir_client.testing.scripted import ScriptedDaemon


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "fabstird(settings): settings of the fixtures fabstird and fabstird_pair, as `fabstird --set` has them",
    )


@pytest.fixture
def fabstird(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon for one test, whose node is started."""
    from fabstir_client.testing.daemon import running_daemon

    with running_daemon(_settings(request)) as daemon:
        yield daemon
        _show(daemon)


@pytest.fixture
def fabstird_pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two of them, connected."""
    from fabstir_client.testing.daemon import running_pair

    with running_pair(_settings(request)) as pair:
        yield pair
        for daemon in pair:
            _show(daemon)


@pytest.fixture
def scripted_fabstird() -> Iterator[ScriptedDaemon]:
    """A scripted daemon for one test."""
    from fabstir_client.testing.scripted import ScriptedDaemon

    with ScriptedDaemon() as daemon:
        yield daemon


def _settings(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """The settings of all marks that apply; the nearest one wins."""
    settings: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("fabstird"))):
        settings |= mark.args[0]
    return settings


def _show(daemon: Daemon) -> None:
    """Print its log, which pytest shows if the test has failed."""
    print(f"log of the daemon in {daemon.data_dir}:\n{daemon.log}", file=sys.stderr)
