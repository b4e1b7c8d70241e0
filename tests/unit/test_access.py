"""Who may call what: grants, and the decision about one call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from fabstir_client.api.access import Access
from fabstir_client.api.errors import Forbidden
from fabstir_client.api.types import Params
from fabstird.rpc.access import Caller, Grant, admit, admit_named
from fabstird.rpc.methods.table import METHODS
from fabstird.rpc.scope import Scope, match, named, peers_of

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


OTHER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("pattern", "fit", "others"),
    [
        ("/acme/job/1", ["/acme/job/1"], ["/acme/job/10", "/acme/job/", ""]),
        ("/acme/*", ["/acme/", "/acme/job/1"], ["/acme", "/acmeX/1", "x/acme/1"]),
        ("*", ["", "/any/thing"], []),
        ("/*/job/*.0", ["/acme/job/1.0", "//job/.0", "/a/job/b/job/2.0"], ["/acme/job/1.1", "/job/1.0"]),
        ("/a*b*a", ["/aba", "/axxbyya"], ["/ab", "/aa"]),
        ("/a*a", ["/aa"], ["/a"]),
        ("/a.c", ["/a.c"], ["/abc"]),
        ("/" + "a*" * 60 + "b", [], ["/" + "a" * 120]),
    ],
)
def test_patterns_of_protocols(pattern: str, fit: list[str], others: list[str]) -> None:
    assert [name for name in fit + others if match(pattern, name)] == fit


def test_a_scope_covers_those_that_can_do_no_more() -> None:
    scope = Scope(("/acme/*", "/x/1"), frozenset({STRANGER}))
    assert scope.covers(["/acme/job/*", "/x/1"], [STRANGER])
    for protocols, peers in [(None, [STRANGER]), (["/x/*"], [STRANGER]), (["/x/1"], None), (["/x/1"], [OTHER])]:
        assert not scope.covers(protocols, peers)
    assert Scope(None, frozenset({STRANGER})).covers(None, [STRANGER])


def test_what_names_peers() -> None:
    assert peers_of(STRANGER) == [STRANGER]
    assert peers_of(f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{STRANGER}") == [OTHER, STRANGER]
    assert peers_of(f"/ip4/1.2.3.4/tcp/1/ipfs/{OTHER}") == [OTHER]
    for text in ("", "/", "10.0.0.0/8", "10.0.0.1", "/dnsaddr/example.org", "/dns4/p2p/tcp/1", "/ip4/1.2.3.4/p2p/x"):
        assert peers_of(text) == [None]


# What a parameter of each of these names can name; whoever adds one sees to it that `scope.named` reads it
NAMING = {"protocol", "peer_id", "address", "target", "ip", "cidr", "peers", "config"}


def test_every_method_that_names_a_protocol_or_a_peer_is_held_to_the_scope() -> None:
    """A call that names the other peer and the other protocol, in each way that it can, is refused in each."""
    mistakes = []
    refused: set[str] = set()
    for method in METHODS:
        names = {one.name for one in msgspec.structs.fields(method.params)} & NAMING
        if method.name == "token.create":
            continue  # it says what another token may name
        for name in sorted(names - ({"peers"} if method.name == "wait" else set())):  # a number there
            value: Any = {"protocol": "/other/1", "peers": [OTHER], "ip": "10.0.0.1", "cidr": "10.0.0.0/8"}.get(
                name, OTHER
            )
            if name == "config":
                value = {"bootstrapNodes": [f"/ip4/127.0.0.1/tcp/1/p2p/{OTHER}"]}
            found = named(method.name, cast("Params", SimpleNamespace(**{name: value})))
            grant = Grant("admin", "it", scope=Scope(("/acme/*",), frozenset({STRANGER})))
            try:
                admit_named(method.name, method.needs, caller(grant), found)
            except Forbidden:
                refused.add(method.name)
            else:
                if not (name == "target" and method.name.startswith("tunnel.")):
                    mistakes.append((method.name, name))
    assert mistakes == []
    assert {"stream.open", "request", "protocol.handle", "connect", "peer.keep", "tunnel.listen", "start"} <= refused
    assert named("sendMessage", cast("Params", SimpleNamespace(peer_id=OTHER))).protocols
