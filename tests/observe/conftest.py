"""A real Prometheus, or none: then what needs it is left out loudly, or fails where it is required."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import leave_out

NEEDS_PROMETHEUS = "has a real Prometheus scrape a daemon (on Debian: apt-get install prometheus)"


@pytest.fixture(scope="session")
def prometheus_there(pytestconfig: pytest.Config) -> None:
    """Whoever uses it may start ``prometheus`` and ``promtool``."""
    absent = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if not absent:
        return
    reason = f"there is no {' and no '.join(absent)} here"
    leave_out(pytestconfig, "prometheus", f"{NEEDS_PROMETHEUS}: {reason}")
