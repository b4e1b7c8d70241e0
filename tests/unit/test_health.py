"""What the health checks answer, over how things stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fabstir_client.api.types import Bound
from fabstird.api.health import healthy, ready


def standing(
    state: str, *, error: str | None = None, silence: float = 0, delay: float = 0, descriptors: int = 1
) -> Any:
    return SimpleNamespace(
        node=SimpleNamespace(state=state, error=error, silence=lambda: silence),
        canary=SimpleNamespace(max=delay),
        bounds=lambda: {"fileDescriptors": Bound(descriptors, 100)},
    )


def test_all_is_well() -> None:
    assert healthy(standing("started")) == (200, {"status": "ok"})
    assert ready(standing("started")) == (200, {"status": "ready"})


@pytest.mark.parametrize("state", ["stopped", "starting", "stopping", "failed"])
def test_a_node_that_is_not_started_is_healthy_and_not_ready(state: str) -> None:
    assert healthy(standing(state)) == (200, {"status": "ok"})
    status, answer = ready(standing(state, error="no such address"))
    assert (status, answer["code"], answer["error"]) == (503, f"NODE_{state.upper()}", "no such address")


def test_a_node_that_does_nothing_is_neither() -> None:
    for status, answer in (healthy(standing("started", silence=61)), ready(standing("started", silence=61))):
        assert (status, answer["code"]) == (503, "NODE_STUCK")


def test_what_is_amiss_without_turning_anybody_away() -> None:
    for check, state in ((healthy, "started"), (ready, "started"), (ready, "stopped")):
        _, answer = check(standing(state, delay=0.7, descriptors=95))
        assert [warning["code"] for warning in answer["warnings"]] == ["LOOP_SLOW", "DESCRIPTORS_LOW"]
        assert "0.7 s" in answer["warnings"][0]["reason"]
