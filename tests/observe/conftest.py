"""A real Prometheus, or none: then what needs it is left out loudly, or fails where it is required."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.conftest import LEFT_OUT

NEEDS_PROMETHEUS = "has a real Prometheus scrape a daemon (on Debian: apt-get install prometheus)"


@pytest.fixture(scope="session")
def prometheus_there(pytestconfig: pytest.Config) -> None:
    """Whoever uses it may start ``prometheus`` and ``promtool``."""
    absent = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if not absent:
        return
    reason = f"there is no {' and no '.join(absent)} here"
    if "prometheus" in os.environ.get("FABSTIR_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"FABSTIR_REQUIRE asks for prometheus: {reason}", pytrace=False)
    pytestconfig.stash.setdefault(LEFT_OUT, {})["prometheus"] = f"{NEEDS_PROMETHEUS}: {reason}"
    pytest.skip(f"left out: {NEEDS_PROMETHEUS}: {reason}")
