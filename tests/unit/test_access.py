"""Who may call what: grants, and the decision about one call."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from fabstir_client.errors import Forbidden
from fabstir_client.types_access import Access
from fabstird.rpc.access import Caller, Grant, admit

LEVELS: tuple[Access, ...] = ("read", "write", "admin")


def caller(grant: Grant) -> Caller:
    return Caller("ipc", grant, uid=1000, pid=4711)


def refusal(method: str, needs: Access, grant: Grant) -> Forbidden:
    with pytest.raises(Forbidden) as raised:
        admit(method, needs, caller(grant))
    return raised.value


@pytest.mark.parametrize("granted", LEVELS)
@pytest.mark.parametrize("needs", LEVELS)
def test_a_level_includes_those_below_it(granted: Access, needs: Access) -> None:
    grant = Grant(granted, "the test", cure="ask for {needed}")
    if LEVELS.index(needs) <= LEVELS.index(granted):
        admit("some.method", needs, caller(grant))
        return
    error = refusal("some.method", needs, grant)
    assert error.message == f"some.method needs {needs} access; the test grants {granted}: ask for {needs}"
    assert error.to_error_object()["data"] == {
        "code": "FORBIDDEN",
        "retryable": False,
        "method": "some.method",
        "needed": needs,
        "granted": granted,
    }


def test_a_grant_for_methods_is_for_nothing_else() -> None:
    grant = Grant("write", 'the token "ci"', methods=frozenset({"peers", "connect"}))
    admit("peers", "read", caller(grant))
    admit("connect", "write", caller(grant))
    error = refusal("status", "read", grant)
    assert 'status is not among the methods of the token "ci": connect, peers' in error.message
    assert error.data["methods"] == ["connect", "peers"]
    assert "methods" not in refusal("shutdown", "admin", grant).data  # the level is what stands in its way first


def test_what_changes_in_a_grant_is_in_effect_at_once() -> None:
    grant = Grant("read", "the group")
    asking = caller(grant)
    refusal("connect", "write", grant)
    grant.access = "write"
    admit("connect", "write", asking)


def test_an_expired_grant_grants_nothing() -> None:
    now = 1000.0
    grant = Grant("admin", 'the token "ci"', expires=1_000_001, clock=lambda: now)
    admit("status", "read", caller(grant))
    now = 1000.001
    error = refusal("status", "read", grant)
    assert error.message == 'status is refused: the token "ci" expired 1970-01-01 00:16:40 UTC'
    assert (error.data["needed"], error.data["granted"]) == ("read", "none")


async def test_who_waits_for_the_end_of_a_grant_is_told_why() -> None:
    grant = Grant("admin", 'the token "ci"')
    told: list[str] = []

    async def wait() -> None:
        told.append(await grant.wait_ended())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        grant.withdraw("was revoked")
    assert told == ['the token "ci" was revoked']
    assert refusal("status", "read", grant).message == 'status is refused: the token "ci" was revoked'


@pytest.mark.parametrize("lifetime", [0.5, 30, 3600])
async def test_the_end_of_a_grant_comes_by_the_wall_clock(
    autojump_clock: trio.testing.MockClock, lifetime: float
) -> None:
    began = trio.current_time()

    def wall() -> float:
        return 1_800_000_000 + trio.current_time() - began

    grant = Grant("read", "it", expires=int((wall() + lifetime) * 1000), clock=wall)
    await grant.wait_ended()
    assert trio.current_time() - began == pytest.approx(lifetime, abs=0.01)


async def test_a_clock_that_is_set_forward_ends_a_grant_within_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    began, jump = trio.current_time(), 0.0
    grant = Grant("read", "it", expires=10**9 * 1000, clock=lambda: jump + trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grant.wait_ended)
        await trio.testing.wait_all_tasks_blocked()
        jump = 10.0**9
    assert trio.current_time() - began <= 60
