"""What stops the loop for milliseconds, however many ask for it at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from fabstird.api import pages
from fabstird.rpc import dump
from fabstird.rpc.methods import debug

ASKED = 40


class Turns(trio.abc.Instrument):
    """How often the work is done in one turn of the loop, at most, and in all."""

    def __init__(self) -> None:
        self.most = self.all = self._now = 0

    def before_io_wait(self, timeout: float) -> None:
        self._now = 0

    def work(self, *_: object) -> Any:
        self.all += 1
        self._now += 1
        self.most = max(self.most, self._now)
        return {}


async def test_one_exposition_is_made_in_a_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred callers of ``GET /metrics`` kept all others waiting for 0.7 s."""
    turns = Turns()
    monkeypatch.setattr(pages, "exposition", lambda *_: lambda: turns.work() or b"")
    monkeypatch.setattr(pages, "admit", lambda *_: None)
    monkeypatch.setattr(pages, "caller", lambda *_: None)
    api = SimpleNamespace(max_request_bytes=1000, body_timeout=1000, ui=False)
    services: Any = SimpleNamespace(config=SimpleNamespace(api=api), counters=None, gauges=None, heavy=trio.Lock())
    client = pages.make_app(services).test_client()

    async def ask() -> None:
        assert (await client.get("/metrics")).status_code == 200

    await asked(turns, ask)


async def test_one_dump_is_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that were asked for lay gathered in memory while threads packed some of them."""
    turns, packing = Turns(), []

    def pack(*_: object) -> bytes:
        packing.append(turns.all)
        return b""

    async def shared() -> Any:
        return SimpleNamespace(commands=SimpleNamespace(bans=list))

    monkeypatch.setattr(dump, "gather", turns.work)
    monkeypatch.setattr(dump, "pack", pack)
    node = SimpleNamespace(shared=shared, identity=SimpleNamespace(peer_id="12D3KooW"))
    call: Any = SimpleNamespace(services=SimpleNamespace(counters=None, gauges=None, node=node, heavy=trio.Lock()))

    async def ask() -> None:
        await debug.make_dump(call, debug.NoParams())

    await asked(turns, ask)
    assert packing == list(range(1, ASKED + 1)), "what is gathered is packed before the next one is"


async def asked(turns: Turns, ask: Any) -> None:
    trio.lowlevel.add_instrument(turns)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(ASKED):
                    nursery.start_soon(ask)
    finally:
        trio.lowlevel.remove_instrument(turns)
    assert turns.all == ASKED
    assert turns.most == 1
