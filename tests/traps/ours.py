"""Our host, in the process of the test, with everything it tells written down."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from fabstird.p2p.host.host import Host, HostObserver, HostSettings, Limits, Link, PeerInfo, Stream

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
PATIENCE = 60.0  # seconds, which only what hangs takes
PROTOCOL = "/test/1"


@dataclass
class Record(HostObserver):
    """What the host said, each entry an event's name and a peer id; and which links came, and which went."""

    events: list[tuple[str, str]] = field(default_factory=list)
    came: list[Link] = field(default_factory=list)
    went: list[Link] = field(default_factory=list)

    def connected(self, link: Link) -> None:
        self.events.append(("connected", link.peer_id))
        self.came.append(link)

    def disconnected(self, link: Link) -> None:
        self.events.append(("disconnected", link.peer_id))
        assert link in self.came, f"{link.peer_id} went without having come"
        assert link not in self.went, f"{link.peer_id} went twice"
        self.went.append(link)

    def identified(self, link: Link, info: PeerInfo) -> None:
        self.events.append(("identified", link.peer_id))


class Peer:
    """The other host, and the streams that it was sent; the test ends its handlers."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.streams: list[Stream] = []
        self.came = trio.Event()
        self.done = trio.Event()
        host.set_stream_handler(PROTOCOL, self.serve)

    async def serve(self, stream: Stream) -> None:
        self.streams.append(stream)
        self.came.set()
        await self.done.wait()


@asynccontextmanager
async def our_host(
    listen: tuple[str, ...] = LOOPBACK,
    *,
    most: int = 64,
    handshake_timeout: float = PATIENCE,
    record: Record | None = None,
) -> AsyncIterator[Host]:
    limits = Limits(max=most, max_per_ip=most, handshake_timeout=handshake_timeout)
    settings = HostSettings(seed=os.urandom(32), agent="fabstird-test/1", limits=limits, listen=listen)
    async with Host.open(settings, record or Record()) as host:
        yield host


def address(host: Host) -> str:
    """The first address that the host listens on."""
    return host.listen_addresses()[0]
