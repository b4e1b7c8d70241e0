"""Which of the node's own addresses the public DHT is told of; and what servers of AutoNAT may have for their dials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p.nat import autonat_asking
from fabstird.p2p.nat.autonat import AutoNat
from fabstird.p2p.nat.autonat_asking import DialBacks
from fabstird.p2p.nat.autonat_messages import DialDataRequest, DialResponse, Status, encode

PEER = Identity.from_seed(bytes(32)).peer_id
HERE = "/ip4/45.32.1.1/tcp/4001"
OWN = f"{HERE}/p2p/{PEER}"
SEEN = [("/ip4/45.32.1.1/tcp/61000", "45.32.1.9")]


@dataclass
class Host:
    """That of a node: what it announces, and at which addresses peers see it, each with where that peer is."""

    given: list[str] = field(default_factory=list)
    relayed: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    peer_id: str = PEER

    def given_addresses(self) -> list[str]:
        return self.given

    def relay_addresses(self) -> list[str]:
        return self.relayed

    def links(self) -> list[Any]:
        return [
            SimpleNamespace(
                peer_id=observed, relayed=False, pipe=SimpleNamespace(remote=SimpleNamespace(host=observer))
            )
            for observed, observer in self.seen
        ]

    def info(self, peer_id: str) -> Any:
        return SimpleNamespace(observed=peer_id)


def node(host: Any, said: list[bool]) -> AutoNat:
    """``said``: how the dial of each of several servers went."""
    autonat = AutoNat(host, Counters())
    for number, reached in enumerate(said):
        autonat._known.record(HERE, str(number), reached=reached, now=0.0)
    return autonat


RELAYED = f"/ip4/45.32.1.7/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}"


@pytest.mark.parametrize(
    ("address", "host", "said", "told"),
    [
        (OWN, Host(), [], False),  # on an interface, and nobody has seen us there
        (OWN, Host(seen=SEEN), [], True),
        (OWN, Host(seen=[("/ip4/45.32.1.1/tcp/61000", "10.0.0.9")]), [], False),  # by one of our own network
        (OWN, Host(), [True], False),
        (OWN, Host(), [True, True], True),
        (OWN, Host(seen=SEEN), [False], True),
        (OWN, Host(seen=SEEN), [False, False], False),
        (OWN, Host(given=[OWN]), [False, False], True),  # the operator knows better
        (RELAYED, Host(relayed=[RELAYED]), [], True),
        (f"/ip4/10.0.0.2/tcp/4001/p2p/{PEER}", Host(), [], True),  # to those who are in that network
        (f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}", Host(), [], True),
    ],
)
async def test_which_addresses_are_told(
    monkeypatch: pytest.MonkeyPatch, address: str, host: Host, said: list[bool], told: bool
) -> None:
    monkeypatch.setattr("trio.current_time", lambda: 1.0)
    assert node(host, said).may_tell(address) is told


V1, V2 = "/libp2p/autonat/1.0.0", "/libp2p/autonat/2/dial-request"


@dataclass
class Met:
    """A host that is connected to peers, each at an IP address of its own, by what they say of themselves."""

    peers: dict[str, tuple[str, list[str]]]

    def links(self) -> list[Any]:
        pipes = [SimpleNamespace(remote=SimpleNamespace(host=f"45.32.1.{n}")) for n in range(len(self.peers))]
        return [
            SimpleNamespace(peer_id=peer, relayed=False, pipe=pipe)
            for peer, pipe in zip(self.peers, pipes, strict=True)
        ]

    def info(self, peer_id: str) -> Any:
        agent, protocols = self.peers[peer_id]
        return SimpleNamespace(agent_version=agent, protocols=protocols)


async def test_a_server_that_would_cut_the_connection_is_not_asked_by_version_1() -> None:
    """js-libp2p's, up to 3.0.28, takes the connection that it has for a dial back, says so, and closes it."""
    peers = {
        "go": ("go-libp2p/0.41", [V1]),
        "js": ("js-libp2p/2.10.0 node/22", [V1]),
        "helia": ("helia/5.0 js-libp2p/2.10.0", [V1, V2]),
        "other": ("other/1", [V1]),
        "none": ("go-libp2p/0.41", []),
    }
    autonat = AutoNat(Met(peers), Counters())  # type: ignore[arg-type]
    assert [(one.peer_id, one.version) for one in autonat._servers()] == [("go", "1"), ("helia", "2"), ("other", "1")]
    autonat._cut["other"] = 0.0
    assert [one.peer_id for one in autonat._servers()] == ["go", "helia"]


class GreedyServer:
    """The host of a node, and the one stream to a server that wants as much dial data as there is, and never dials."""

    def __init__(self, ip: str) -> None:
        self.link = SimpleNamespace(pipe=SimpleNamespace(remote=SimpleNamespace(host=ip)))
        self.sent = 0
        self._answer = b""

    @asynccontextmanager
    async def stream(self, *_: str) -> AsyncIterator[Any]:
        self._answer = encode(DialDataRequest(0, 100_000)) + encode(DialResponse(Status.DIAL_REFUSED))
        yield self

    async def write(self, data: bytes) -> None:
        self.sent += len(data)

    async def read(self, size: int) -> bytes:
        data, self._answer = self._answer[:size], self._answer[size:]
        return data


async def test_a_server_has_dial_data_once_in_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("trio.current_time", lambda: clock[0])
    one, other = GreedyServer("45.32.1.9"), GreedyServer("45.32.1.10")
    dial_backs = DialBacks(one)  # type: ignore[arg-type]
    for now in (0.0, 30.0, 60.0, autonat_asking.PAID - 1):
        clock[0] = now
        assert await dial_backs.ask("one", HERE) == "refused"
    assert 100_000 < one.sent < 110_000
    dial_backs._host = other  # type: ignore[assignment]
    assert await dial_backs.ask("other", HERE) == "refused"
    assert other.sent > 100_000
    clock[0] = 2 * autonat_asking.PAID
    assert await dial_backs.ask("other", HERE) == "refused"
    assert other.sent > 200_000
    assert len(dial_backs._paid) == 1
