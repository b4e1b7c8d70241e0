"""The connection manager over one fake host and a clock moved by hand, for the tests of it and of its commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fabstir_client.api.types import Direction
from fabstird.config import ConnectionsConfig, NodeConfig
from fabstird.events import Entry, EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p.fence import Fence
from fabstird.p2p.host.host import DialError, DialLimit, Host, PeerInfo
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.commands import Commands
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.peers.nearby import NEVER, Nearby

OWN, A, B = (Identity.from_seed(bytes([number]) * 32).peer_id for number in range(3))
A1, A2, B1 = f"/ip4/1.1.1.1/tcp/1/p2p/{A}", f"/ip4/2.2.2.2/tcp/2/p2p/{A}", f"/ip4/3.3.3.3/tcp/3/p2p/{B}"
SAID = PeerInfo("agent/1", "ipfs/0.1.0", ("/a/1",), ("/ip4/9.9.9.9/tcp/9",), None)
Json = dict[str, Any]


@dataclass(eq=False)
class FakeLink:
    peer_id: str
    address: str
    direction: Direction = "outbound"
    reason: str | None = None
    opened_at: int = 1700000000000
    opened: float = field(default_factory=trio.current_time)
    latency: float | None = None
    transport = "tcp"
    security = "/noise"
    muxer = "/yamux/1.0.0"
    key_type = "Ed25519"
    punched = False
    handshake = 0.01
    streams: tuple[object, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0
    host: FakeHost | None = None
    checked: int = 0  # signs of life asked for

    @property
    def is_closed(self) -> bool:
        return self.reason is not None

    @property
    def relayed(self) -> bool:
        return "/p2p-circuit" in self.address

    @property
    def pipe(self) -> Any:
        return SimpleNamespace(remote=SimpleNamespace(host=self.address.split("/")[2]))

    def check(self) -> None:
        self.checked += 1

    def end(self, reason: str) -> None:
        """As the real one: gone once its owner has had its turn, and here that is at once."""
        assert self.host is not None
        if self.reason is None:
            self.reason = reason
            trio.lowlevel.current_trio_token().run_sync_soon(self.host.lose, self, reason)


class Dial:
    """A dial under way; the test says how it ends, and sees when it was cancelled."""

    def __init__(self, host: FakeHost, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.begun = trio.current_time()
        self.cancelled = False
        self._host = host
        self._ended = trio.Event()
        self._brief = False
        self._outcome: DialError | FakeLink = DialError("never set")

    def fail(self, words: str = "connection refused") -> None:
        self._end(DialError(words))

    def limit(self) -> None:
        self._end(DialLimit("connections.max", 1, 1))

    def succeed(self, peer_id: str, *, and_lose_it: bool = False) -> FakeLink:
        link = FakeLink(peer_id, self.address)
        self._brief = and_lose_it
        self._end(link)
        return link

    def _end(self, outcome: DialError | FakeLink) -> None:
        self._outcome = outcome
        self._ended.set()

    async def run(self) -> FakeLink:
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise
        if isinstance(self._outcome, FakeLink):
            self._host.bring_up(self._outcome)  # as the real one: told before the dial returns
            if self._brief:
                self._host.lose(self._outcome)
            return self._outcome
        raise self._outcome


class FakeHost:
    """The one fake of this project: what `Connections` uses of `Host`."""

    def __init__(self, observer: Connections) -> None:
        self.peer_id = OWN
        self.fence = Fence()
        self.observer = observer
        self.dials: list[Dial] = []
        self.up: list[FakeLink] = []
        self.infos: dict[str, PeerInfo] = {}
        self.pong: float | Exception | None = 1.5

    # what the test does to it

    def bring_up(self, link: FakeLink) -> None:
        link.host = self
        self.up.append(link)
        self.observer.connected(cast(Any, link))

    def lose(self, link: FakeLink, reason: str = "closed_by_peer") -> None:
        link.reason = link.reason or reason
        self.up.remove(link)
        self.observer.disconnected(cast(Any, link))

    def identify(self, link: FakeLink, info: PeerInfo) -> None:
        self.infos[link.peer_id] = info
        self.observer.identified(cast(Any, link), info)

    # what `Connections` does with it

    async def dial(self, text: str, *, timeout: float) -> FakeLink:
        dial = Dial(self, text, timeout)
        self.dials.append(dial)
        return await dial.run()

    async def close_peer(self, peer_id: str, reason: str = "closed") -> int:
        links = [link for link in self.up if link.peer_id == peer_id]
        await trio.lowlevel.checkpoint()
        for link in links:
            self.lose(link, reason)
        return len(links)

    async def ping(self, peer_id: str) -> float:
        if self.pong is None:
            await trio.sleep_forever()
        if isinstance(self.pong, Exception):
            raise self.pong
        assert self.pong is not None
        return self.pong

    def info(self, peer_id: str) -> PeerInfo | None:
        return self.infos.get(peer_id)


class Bench:
    """A connection manager at work, and everything that it tells."""

    def __init__(self, clock: MockClock, book: Path, **node: Any) -> None:
        self.clock = clock
        self.events = EventLog(1000)
        self.told: list[tuple[str, Json]] = []
        self.events.tap(self._tell)
        self.counters = Counters()
        self.book = Book(book)
        self.history = History()
        self.wall_ahead = 0.0  # seconds by which the wall clock is ahead of the steady one
        limits, worth = node.pop("limits", ConnectionsConfig()), node.pop("worth", None)
        self.connections = Connections(
            NodeConfig(**node),
            limits,
            self.events,
            self.counters,
            self.book,
            self.history,
            Nearby(OWN, NEVER),
            worth=worth,
            wall=lambda: trio.current_time() + self.wall_ahead,
        )
        self.commands = Commands(OWN, self.book, self.history)
        self.commands.attach(self.connections)
        self.host = FakeHost(self.connections)

    def _tell(self, entry: Entry) -> None:
        self.told.append((entry.type, entry.data.to_dict()))

    def news(self) -> list[tuple[str, Json]]:
        """What was told since this was asked last."""
        told, self.told = self.told, []
        return told

    async def settle(self, seconds: float = 0) -> None:
        """Let everybody do what there is to do, move the clock, and again."""
        await wait_all_tasks_blocked()
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    def dial(self, address: str = "") -> Dial:
        """The newest dial, of this address if one is given; dials that begin together do so in any order."""
        return [dial for dial in self.host.dials if address in ("", dial.address)][-1]


@asynccontextmanager
async def running(clock: MockClock, book: Path, *nodes: str, **node: Any) -> AsyncIterator[Bench]:
    bench = Bench(clock, book, bootstrap_nodes=nodes, **node)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.connections.run, cast(Host, bench.host))
        await bench.settle()
        yield bench
        nursery.cancel_scope.cancel()
