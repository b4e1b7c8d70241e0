"""Relays that a node asks to bring it connections: which ones, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from fabstird.identity import Identity
from fabstird.p2p.fence import Fence
from fabstird.p2p.nat import relay
from fabstird.p2p.nat.relay import FOUND, LOOK, Relays
from fabstird.p2p.net import circuit
from fabstird.p2p.net.circuit import HOP, RelayError

RELAYS = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(2 * FOUND)]


class Connected:
    """A host, and its connection manager: bootstrap nodes that are relays, and which of them are connected."""

    def __init__(self) -> None:
        self.there = {one: SimpleNamespace(peer_id=one, gone=trio.Event()) for one in RELAYS}
        self.fence = Fence()
        self.node = SimpleNamespace(
            bootstrap_nodes=[f"/ip4/10.0.0.{number}/tcp/1/p2p/{one}" for number, one in enumerate(RELAYS)]
        )

    def info(self, one: str) -> Any:
        return SimpleNamespace(protocols=[HOP]) if one in self.there else None

    def direct_link(self, one: str) -> Any:
        return self.there.get(one)

    def set_stream_handler(self, *_: object) -> None:
        """Nobody opens a stream."""


async def test_a_relay_that_has_gone_may_bring_nobody_and_another_one_is_asked(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that had died were all that a node behind a NAT ever asked."""
    asked: list[str] = []

    async def reserve(link: Any) -> None:
        asked.append(link.peer_id)
        raise RelayError("the relay refused a reservation")

    monkeypatch.setattr(circuit, "reserve", reserve)
    monkeypatch.setattr(relay.log, "warning", lambda *_, **__: None)
    node: Any = Connected()
    relays = Relays(node, node, (), lambda: True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relays.run)
        await trio.sleep(3 * LOOK)
        assert set(asked) == set(RELAYS[:FOUND])
        for one in RELAYS[:FOUND]:
            node.there.pop(one).gone.set()
        await trio.sleep(5 * LOOK)
        assert set(asked[FOUND : 2 * FOUND]) == set(RELAYS[FOUND : 2 * FOUND])
        assert relays._asked == set(RELAYS[FOUND : 2 * FOUND])
        nursery.cancel_scope.cancel()
