"""What a peer that comes through a relay learns of the dials that are made on its word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from fabstird.events import EventLog
from fabstird.metrics.counters import Counters
from fabstird.p2p.nat.direct import REVERSAL, Direct
from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.history import History

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
ADDRESS = f"/ip4/45.32.1.9/tcp/22/p2p/{PEER}"


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


class Relayed:
    """A host with one relayed peer, its connection manager, and its hole punching."""

    def __init__(self, takes: float) -> None:
        self.takes = takes  # seconds until the port has refused, or would
        self.dialled: list[str] = []
        self.began: list[float] = []

    def observe(self, _: object) -> None:
        """Nobody else comes."""

    def direct_link(self, _: str) -> None:
        return None

    def source(self, _: object) -> None:
        return None

    async def dial(self, _: str, addresses: list[str], __: object) -> None:
        self.dialled += addresses
        await trio.sleep(self.takes)
        raise NoneConnected({ADDRESS: DialError("connection refused")})

    async def punch(self, _: object) -> None:
        self.began.append(trio.current_time())


@pytest.mark.parametrize("takes", [0.001, 1.0, 60.0], ids=["at once", "later", "never"])
async def test_holes_are_punched_at_the_same_moment_however_soon_a_port_has_refused(
    takes: float, clock: trio.testing.MockClock
) -> None:
    node: Any = Relayed(takes)
    direct = Direct(node, node, EventLog(1), Counters(), History(), node)
    began = trio.current_time()
    await direct._attempt(cast(Any, SimpleNamespace(peer_id=PEER, is_closed=False)), [ADDRESS], True)
    assert node.dialled == [ADDRESS]
    [at] = node.began
    assert at - began == pytest.approx(REVERSAL)


async def test_two_direct_connections_are_one_change_of_path() -> None:
    """Both sides have dialled, as over QUIC with rust-libp2p, and both dials came through."""
    links: list[Any] = []

    def link(direction: str, *, relayed: bool) -> Any:
        made = SimpleNamespace(peer_id=PEER, address=ADDRESS, direction=direction, relayed=relayed)
        made.punched, made.opened = direction == "outbound" and not relayed, trio.current_time()
        links.append(made)
        return made

    def first_direct(_: str) -> Any:
        return next((one for one in links if not one.relayed), None)

    host: Any = SimpleNamespace(observe=lambda _: None, links=lambda _: links, direct_link=first_direct)
    events, history = EventLog(8), History()
    direct = Direct(host, cast(Any, None), events, Counters(), history, None)
    direct.connected(link("outbound", relayed=True))
    direct.connected(link("outbound", relayed=False))
    direct.connected(link("inbound", relayed=False))
    noted = [entry.detail for entry in history.of(PEER) if entry.what == "direct"]
    assert [words.partition(",")[0] for words in noted] == ["by hole punching"]
    assert len(events.read(0)) == 1
