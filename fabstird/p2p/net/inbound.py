"""Connections that others open to this node. One task owns each, from its first byte to its last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.muxer.muxed import CapableConn
from fabstird.p2p.net.admission import Arrivals, Limits
from fabstird.p2p.net.dial_errors import in_words
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.links import Links
from fabstird.p2p.security.handshakes import begins
from fabstird.p2p.transport import sockets
from fabstird.p2p.transport.pipe import Pipe
from fabstird.p2p.transport.proxied import Caller, introduced, is_trusted
from fabstird.p2p.transport.sockets import Doors, Listener
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.errors import NetworkError

log = get_logger("p2p.swarm")

INTRODUCTIONS = 256  # connections of trusted proxies that have not named their client yet

Begin = Callable[[trio.Nursery], Awaitable[Pipe]]  # the raw connection; its reader may run in the nursery


class Inbound:
    """Admits newcomers to `Links`, or turns them away. ``doors`` says how TCP connections arrive: TLS, and which
    proxies are trusted."""

    def __init__(self, links: Links, doors: Doors) -> None:
        self.handshakes_failed = 0
        self.refused = 0
        self.throttled = 0  # of those refused, for `max_new_per_ip`
        self.arrivals = Arrivals()
        self.fence, self.traffic, self.turn = links.fence, links.traffic, links.turn
        self._links = links
        self._doors = doors
        self._introducing: dict[trio.CancelScope, None] = {}  # of trusted proxies' connections, oldest first
        self._awaited: list[Address] = []  # bare; few at a time

    # What QUIC needs to know (`quic.Door`)

    @property
    def limits(self) -> Limits:
        """As they are now."""
        return self._links.limits

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        """As `Links.refusal`."""
        return self._links.refusal(host, peer_id)

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        """Whether a newcomer over UDP may begin a handshake.

        Its address is counted once it is ``proven``. Source addresses can be forged, and counting an unproven one
        would let anybody keep its owner out.
        """
        if self._links.for_new is None or self.refusal(remote.host, None) is not None:
            self.refused += 1
            return False
        return not proven or self._comes_in_time(remote, local)

    def accept(self, connection: CapableConn) -> None:
        """Own a QUIC connection that `admits` has let in."""

        async def begin(nursery: trio.Nursery) -> Pipe:
            return connection

        assert self._links.nursery is not None  # otherwise `admits` returns False
        self.fence.spawn(self._links.nursery, "connection", self._admit, connection.remote, begin, connection.close)

    # TCP and relays

    async def serve(self, listener: Listener, stream: trio.SocketStream) -> None:
        """Own a TCP connection that ``listener`` has accepted, and close it at last."""
        try:
            await self._serve(listener, stream)
        finally:
            stream.socket.close()

    async def _serve(self, listener: Listener, stream: trio.SocketStream) -> None:
        try:
            remote, local = listener.remote_of(stream), stream.socket.getsockname()[0]
        except OSError:
            return  # it has gone since it was accepted
        caller = Caller(stream, remote)
        if self._doors.trusted and is_trusted(remote.host, self._doors.trusted):
            behind = await self._introduced(caller)
            if behind is None:
                return
            caller, remote = behind, behind.remote
        if not self._comes_in_time(remote, local):
            return

        async def begin(nursery: trio.Nursery) -> Pipe:
            pipe = await sockets.accept(caller, nursery, self.traffic, self._doors.certificate)
            if remote in self._awaited and not await begins(pipe):
                pipe.is_initiator = pipe.punched = True  # its dial came through, not ours; roles stay as agreed
            return pipe

        async def close() -> None:
            stream.socket.close()  # nothing to wait for

        await self._admit(remote, begin, close)

    async def accept_circuit(self, pipe: Pipe) -> None:
        """Own an inbound connection through a relay, independently of the link to that relay. Returns when it has
        ended."""
        done = trio.Event()

        async def begin(nursery: trio.Nursery) -> Pipe:
            return pipe

        async def own() -> None:
            try:
                await self._admit(pipe.remote, begin, pipe.close)
            finally:
                done.set()

        if (nursery := self._links.for_new) is None:
            await pipe.close()
            return
        self.fence.spawn(nursery, "connection", own)
        await done.wait()

    @contextmanager
    def awaiting(self, addresses: Sequence[Address]) -> Iterator[None]:
        """Expect dials from ``addresses`` that belong to a hole punch: the other side waits for us to begin, as if we
        had dialled. A caller that begins itself is served as usual, since a peer can name anybody's address as its
        own."""
        self._awaited += addresses
        try:
            yield
        finally:
            for address in addresses:
                self._awaited.remove(address)

    # A connection

    def _comes_in_time(self, remote: Address, local: str) -> bool:
        """Count this arrival; whether its IP address is within `max_new_per_ip`."""
        most, at_once = self.limits.max_new_per_ip, self.limits.max_per_ip
        if self.arrivals.admits(remote.host, local, most, at_once, trio.current_time()):
            return True
        self.refused += 1
        self.throttled += 1
        log.debug("connection refused: its address comes too often", address=str(remote))
        return False

    async def _introduced(self, caller: Caller) -> Caller | None:
        """The client behind a trusted proxy, before anything is counted for it. None where the proxy does not name it
        in time, or where newer connections need its place."""
        if len(self._introducing) >= INTRODUCTIONS:
            first = next(iter(self._introducing))
            del self._introducing[first]
            first.cancel()  # an honest proxy names its client at once
        try:
            with trio.fail_after(self.limits.handshake_timeout) as waiting:
                self._introducing[waiting] = None
                try:
                    return await introduced(caller, self._doors.trusted)
                finally:
                    self._introducing.pop(waiting, None)
        except (NetworkError, trio.TooSlowError) as error:
            self.handshakes_failed += 1
            log.debug("handshake failed", address=str(caller.remote), error=in_words(error))
            return None

    async def _admit(self, remote: Address, begin: Begin, close: Callable[[], Awaitable[None]]) -> None:
        """Own an inbound connection. A newcomer over a limit is refused before it costs a handshake."""
        limits, relayed = self.limits, remote.relay is not None
        newcomer = None
        if self.refusal(remote.host, None) is None:
            newcomer = self._links.places.come(remote.host, limits.max, limits.max_per_ip, relayed=relayed)
        if newcomer is None:
            self.refused += 1
            log.debug("connection refused", address=str(remote), connections=self._links.places.taken)
            await close()
            return
        link: Link | None = None
        settled = False
        began = trio.current_time()
        try:
            with self._links.memory.connection(remote.host, relayed=relayed) as memory:
                async with trio.open_nursery() as nursery:
                    try:
                        with newcomer.handshake, trio.fail_after(limits.handshake_timeout):
                            pipe = await begin(nursery)
                            link = await self._links.upgrade(pipe, remote, memory)
                            link.handshake = trio.current_time() - began
                        settled = link is not None and self._links.places.settle(newcomer, self.limits.max)
                        if link is not None and settled:
                            await self._links.live(link, nursery, trio.TASK_STATUS_IGNORED)
                        else:
                            self.refused += 1
                            log.debug("connection refused", address=str(remote), connections=self._links.places.taken)
                    finally:
                        await close()
                        nursery.cancel_scope.cancel()
        except* Exception as errors:  # also those that are raised as a stop cancels it
            if settled:
                raise
            self.handshakes_failed += 1
            log.debug("handshake failed", address=str(remote), error=in_words(errors))
        finally:
            self._links.places.go(newcomer, settled=settled)
            if link is not None:
                link.gone.set()
