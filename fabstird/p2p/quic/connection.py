"""One QUIC connection: raw connection, security and multiplexer in one, where TCP has three.

Nothing here waits for the network: a datagram that has come, a write, a timer each lead to one `_pump`, which hands on
what the engine tells and sends what it has to send. Two tasks look after the timers, one after the other: whoever waits
for the handshake, then `run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    PingAcknowledged,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode

from fabstird.log.logger import get_logger
from fabstird.p2p.budget import Scope
from fabstird.p2p.muxer.frame import NO_ERROR
from fabstird.p2p.muxer.muxed import Muxed
from fabstird.p2p.muxer.pulse import Beat, Pulse
from fabstird.p2p.quic.ending import ending
from fabstird.p2p.quic.identity import UdpAddress
from fabstird.p2p.quic.streams import Carrying, Owing
from fabstird.p2p.security.secured import TLS
from fabstird.p2p.wire.addresses import QUIC, Address, from_endpoint
from fabstird.p2p.wire.errors import ConnectionLost, PeerError

log = get_logger("p2p.quic")

BACKLOG = 16  # datagrams that wait until a newcomer's handshake begins
BLOCKED = 0.05  # seconds from one look to the next while the kernel takes nothing
MUXER = "/quic-v1"


class Way(Owing, Protocol):
    """The socket that a connection's datagrams go through."""

    def send(self, datagrams: list[tuple[bytes, UdpAddress]], connection: Connection) -> None: ...

    def is_blocked(self) -> bool:
        """The kernel takes no more at the moment; `Connection.send_soon` is called once it does."""

    def lead(self, cid: bytes, connection: Connection | None) -> None:
        """A connection id leads to it from now on; or to nobody."""

    def moved(self, connection: Connection, before: UdpAddress, after: UdpAddress) -> None:
        """Its peer is somewhere else."""

    def known(self, connection: Connection) -> bool:
        """It is up: the peer has shown who it is. Whether it may stay."""

    def turn_away(self, data: bytes, connection: Connection) -> None:
        """Tell whoever has sent this first datagram that there is no place."""

    def refusal(self, host: str) -> str | None:
        """Why nobody at this IP address may be connected."""

    def forget(self, connection: Connection) -> None:
        """It has ended."""


class Connection(Carrying):
    """Made by an endpoint. ``protocol``, ``peer_id`` and ``key_type`` stand once `upgrade` has returned."""

    protocol = TLS  # QUIC's handshake is that of libp2p's TLS
    name = MUXER
    goodbye = 1.5  # what was written stays here until the peer has acknowledged it

    def __init__(self, way: Way, remote: Address, target: UdpAddress, *, initiator: bool) -> None:
        super().__init__(way)
        self._way = way
        self.is_initiator = initiator
        self.remote = remote
        self.ended: str | None = None
        self.peer_id = ""
        self.key_type = ""
        self.local: bytes | None = None  # the address of ours that the peer knows, as the kernel packs it
        self.finished = trio.Event()
        self.bytes_received = 0
        self.bytes_sent = 0
        self.target = target
        self._backlog: list[tuple[bytes, UdpAddress]] | None = []
        self._pulse: Pulse | None = None
        self._failure: Exception | None = None
        self._sleep: trio.CancelScope | None = None
        self._moved = trio.lowlevel.ParkingLot()  # where tasks wait until something has come
        self._again = False
        self._keep_at = math.inf

    # ----------------------------------------------------------------------------------------------------------------
    # Its life

    async def upgrade(self, expected: str | None, beat: Beat, memory: Scope) -> None:
        """Shake hands. The caller brings the deadline.

        Raises `WrongPeer`, `HandshakeFailed`, `ConnectionLost`, `PeerError`, and what hostile bytes make the engine
        raise.
        """
        self.engine.expected = expected
        self._memory = memory
        self._pulse = Pulse(self, self, beat)
        backlog, self._backlog = self._backlog or [], None
        now = trio.current_time()
        if self.is_initiator:
            self.engine.connect(self.target, now)
            for cid in self.engine.cids():
                self._way.lead(cid, self)
        for data, source in backlog:
            self.receive(data, source, now)
        if not (self.is_initiator or self._over or self.engine.has_begun):
            raise PeerError("its first datagram begins no handshake")
        self._pump(now)
        while not (self.engine.is_up or self._over):
            await self._until_due()
        if self._over:
            raise self.engine.refusal or self._failure or ConnectionLost("closed during the handshake")
        assert self.engine.peer_key is not None  # or the engine had ended it
        if not self._way.known(self):
            self._close(QuicErrorCode.CONNECTION_REFUSED)
            raise ConnectionLost("its address comes too often")
        self.peer_id, self.key_type = self.engine.peer_key.peer_id, self.engine.peer_key.kind

    async def run(self, serve: Callable[[Muxed], object]) -> None:
        """Until the connection ends; call ``serve`` with each stream that the peer opens. Returns where the peer ended
        it in order.

        Raises `ConnectionLost`, `Silence`, `PeerError`, and what hostile bytes make the engine raise.
        """
        assert self._pulse is not None
        self._serve = serve
        for stream in self.early:
            serve(stream)
        self.early.clear()
        self._pulse.begin()
        try:
            while not self._over:
                await self._until_due()
        finally:
            self._pulse.end()
            self._end()
        if self._failure is not None:
            raise self._failure

    async def say_goodbye(self) -> None:
        """Wait until the peer has what was written, and tell it that we close. The caller brings the deadline."""
        try:
            while not self._over and self.engine.owed():
                await self._moved.park()
        finally:
            self._close()

    def leave(self) -> bool:
        """It always waits until the peer has what was written."""
        return False

    async def finish(self) -> None:
        """There is nothing to say after `say_goodbye`."""

    async def close(self) -> None:
        self._close()

    def _close(self, code: int = QuicErrorCode.NO_ERROR) -> None:
        """Tell the peer, if it can be told, and forget it."""
        if self._over:
            return
        self._failure = self._failure or ConnectionLost("closed here")
        if self._backlog is None and self.engine.has_begun:
            self.engine.close(error_code=code)
            self._pump(trio.current_time())
        elif self._backlog and not self.is_initiator:
            self._way.turn_away(self._backlog[0][0], self)
        self._end()

    def _end(self) -> None:
        """Nothing comes or goes from now on; whoever waits is told."""
        if self._over:
            return
        self._over = True
        self.changes.tell()
        for stream in list(self.streams.values()):
            stream.lose()
        self.streams.clear()
        self.waiting.clear()
        self.changes.tell()
        self.count_owed(0)
        self._way.forget(self)
        self.engine.let_go()
        self.finished.set()
        self._moved.unpark_all()
        if self._sleep is not None:
            self._sleep.cancel()

    # ----------------------------------------------------------------------------------------------------------------
    # Datagrams and timers

    def receive(self, data: bytes, source: UdpAddress, now: float) -> None:
        """A datagram has come for it; whoever calls this calls `received_all` when there are no more at the moment."""
        if self._backlog is not None:
            if len(self._backlog) < BACKLOG:
                self._backlog.append((data, source))
            return
        if self._over:
            return
        self.bytes_received += len(data)
        self._pumping = True  # nothing is sent while the engine takes a packet apart
        try:
            self.engine.receive_datagram(data, source, now)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's bytes do to the engine ends this connection
            self._broken(error)
        finally:
            self._pumping = False

    def received_all(self, now: float, count: int) -> None:
        """``count`` datagrams have come at once."""
        if self._backlog is not None or self._over:
            return
        if count > 1:
            self.engine.acknowledge(now)
        self._pump(now)
        self.wake_writers()
        self._moved.unpark_all()

    def forgotten(self) -> None:
        """The peer has said, by a stateless reset, that it knows nothing of this connection."""
        self.ended = self.ended or "reset"
        self._failure = self._failure or ConnectionLost("the peer does not know the connection any more")
        self._end()

    def send_soon(self) -> None:
        """There may be something to send."""
        if not self._over and self._backlog is None:
            self._pump(trio.current_time())

    def _pump(self, now: float) -> None:
        if self._pumping:
            self._again = True
            return
        self._pumping = True
        try:
            while True:
                self._again = False
                self._hand_on(now)
                if not self._way.is_blocked():
                    datagrams = self.engine.datagrams_to_send(now)
                    if datagrams:
                        self.bytes_sent += sum(len(data) for data, _ in datagrams)
                        self._way.send(datagrams, self)
                self._hand_on(now)
                self.changes.tell()
                if not self._again:
                    break
        except Exception as error:  # noqa: BLE001 - as in `receive`
            self._broken(error)
        finally:
            self._pumping = False
        if self._over:
            return
        if self.owed:
            self.count_owed(self.engine.owed())
        self._follow()
        if self.engine.closed_with is not None:
            self._told_end()
            return
        if self._sleep is not None:
            due = self._next()
            if due < self._sleep.deadline:
                self._sleep.deadline = due
            if self.engine.is_up and not self.peer_id:
                self._sleep.cancel()

    def _next(self) -> float:
        due = self.engine.due()
        due = min(self._keep_at, math.inf if due is None else due)
        # What is due cannot be sent; once it can, `send_soon` is called
        return max(due, trio.current_time() + BLOCKED) if self._way.is_blocked() else due

    async def _until_due(self) -> None:
        """Wait for the next timer, the end of the handshake or of all; then do what is due."""
        try:
            with trio.CancelScope(deadline=self._next()) as self._sleep:
                await trio.sleep_forever()
        finally:
            self._sleep = None
        if self._over:
            return
        now = trio.current_time()
        if self.engine.is_up and now >= self._keep_at:
            self.engine.send_ping(0)
            self._keep_at = now + self.engine.idle / 2
        try:
            due = self.engine.due()
            if due is not None and due <= now:
                self.engine.handle_timer(now)
        except Exception as error:  # noqa: BLE001 - as in `receive`
            self._broken(error)
            return
        self._pump(now)
        self.wake_writers()

    def _broken(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._end()

    def _told_end(self) -> None:
        """The engine has ended it."""
        reason, error = ending(self.engine)
        self.ended = self.ended or reason
        self._failure = self._failure or error
        self._end()

    def _follow(self) -> None:
        """The peer may have moved to another address (RFC 9000, 9)."""
        now_at = self.engine.remote
        if now_at is None or now_at == self.target:
            return
        self._way.moved(self, self.target, now_at)
        self.target = now_at
        self.remote = from_endpoint(str(now_at[0]), int(now_at[1]), QUIC)
        if (refusal := self._way.refusal(self.remote.host)) is not None:
            log.debug("a peer has moved to where it must not be", peer=self.peer_id, reason=refusal)
            self._failure = self._failure or PeerError(refusal)
            self._close()

    # ----------------------------------------------------------------------------------------------------------------
    # What the engine tells

    def _hand_on(self, now: float) -> None:
        while (event := self.engine.next_event()) is not None:
            self._keep_at = now + self.engine.idle / 2
            self._on_event(event)

    def _on_event(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            stream = self.stream_of(event.stream_id)
            if stream is not None:
                if event.data:
                    stream.received(event.data)
                if event.end_stream:
                    stream.ended()
                    self.settle(stream)
        elif isinstance(event, StreamReset):
            if (stream := self.stream_of(event.stream_id)) is not None:
                stream.cut_by_peer(_code(event.error_code))
        elif isinstance(event, StopSendingReceived):
            if (stream := self.stream_of(event.stream_id)) is not None:
                stream.stopped_by_peer(_code(event.error_code))
        elif isinstance(event, PingAcknowledged):
            if self._pulse is not None:
                self._pulse.answered(event.uid)
        elif isinstance(event, ConnectionIdIssued):
            self._way.lead(event.connection_id, self)
        elif isinstance(event, ConnectionIdRetired):
            self._way.lead(event.connection_id, None)

    # ----------------------------------------------------------------------------------------------------------------
    # What its pulse asks for

    def check(self) -> None:
        """Ask for a sign of life now, not at the next turn."""
        if self._pulse is not None:
            self._pulse.hurry()

    def ask_for_life(self, number: int) -> None:
        self.engine.send_ping(number)
        self.send_soon()

    def fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._close()

    # A raw connection is read and written by nobody here: its streams are.

    async def read(self, n: int | None = None) -> bytes:
        raise ConnectionLost("a QUIC connection has streams")

    async def write(self, data: bytes) -> None:
        raise ConnectionLost("a QUIC connection has streams")

    def unread(self, data: bytes) -> None:
        raise ConnectionLost("a QUIC connection has streams")

    def trusted(self) -> None:
        pass


def _code(code: int) -> int:
    """A reset's code as libp2p has it, of 32 bits; others are as good as none."""
    return code if code < 1 << 32 else NO_ERROR
