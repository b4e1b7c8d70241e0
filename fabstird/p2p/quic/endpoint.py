"""One UDP socket, and the QUIC connections on it, whichever side has begun them.

A datagram is looked at once: for a connection that is known it goes there, whatever its source; a newcomer's first one
makes a connection, where there is room; everything else is answered without keeping anything, or dropped.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import trio
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicErrorCode, QuicHeader, QuicPacketType, pull_quic_header

from fabstird.log.logger import get_logger
from fabstird.p2p.quic.connection import Connection
from fabstird.p2p.quic.engine import Engine
from fabstird.p2p.quic.identity import CID_LENGTH, DATAGRAM, Identity, UdpAddress
from fabstird.p2p.quic.probing import LARGEST
from fabstird.p2p.quic.segments import (
    ANCILLARY,
    forbid_fragments,
    local_of,
    runs,
    send_together,
    sent_from,
    tell_local,
)
from fabstird.p2p.quic.stateless import VERSION, Answers, Bucket, Tokens, is_reset
from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.wire.addresses import QUIC, Address, from_endpoint
from fabstird.turn import Turn

log = get_logger("p2p.quic")

COST, OPENING = 4, 8  # a datagram, and a stream that it opens, in frames of yamux, with which they share a turn
LONG_HEADER = b"\x80"  # from there on, the first byte of a datagram is that of a long header (RFC 8999)
SHORTEST_CID = 8  # bytes of the connection id that a client chooses for its first datagram (RFC 9000, 7.2)
UNPROVEN = 8  # newcomers at a time whose address is taken on trust; from then on, Retry comes first
TRUST, TRUST_AT_ONCE = 8.0, 16.0  # of those: a second, and at once
SLICE = 0.005  # seconds for datagrams until other tasks have their turn
KNOCK = 20  # bytes
OUTBOX = 1024  # datagrams that wait because the kernel takes no more
KERNEL_BUFFER = 4 * 1024 * 1024  # bytes that are asked for; the kernel gives what it allows
IDLE = 30.0  # seconds of silence after which a connection is over, or as long as its pulse may take


class Owner(Protocol):
    """Whose connections they are."""

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        """Whether a newcomer may begin a handshake; counted once its address is ``proven`` to be its own."""

    def accept(self, connection: Connection) -> None:
        """A newcomer has come: shake hands with it, in a task of its own."""

    def refusal(self, host: str) -> str | None:
        """Why nobody at this IP address may be connected."""

    def idle(self) -> float:
        """Seconds for which a connection may be silent."""

    def owe(self, size: int) -> None: ...

    def owes(self) -> bool: ...


class Endpoint:
    """``bound`` is where it is. `run` reads from it; whoever makes it closes it."""

    def __init__(
        self,
        sock: socket.socket,
        identity: Identity,
        tokens: Tokens,
        owner: Owner,
        traffic: Traffic,
        turn: Turn,
        *,
        accepts: bool,
    ) -> None:
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        self.bound = from_endpoint(host, port, QUIC)
        self.accepts = accepts
        self.dropped = 0  # datagrams that belong to nobody
        self.retries = 0
        self._sock = sock
        self._identity = identity
        self._owner = owner
        self._traffic = traffic
        self._turn = turn
        self._answers = Answers(tokens)
        self._trust = Bucket(TRUST, TRUST_AT_ONCE)
        self._routes: dict[bytes, Connection] = {}
        self._connections: dict[Connection, set[bytes]] = {}  # and the connection ids that lead to each
        self._sources: dict[UdpAddress, set[Connection]] = {}  # where their peers are
        self._newcomers: set[Connection] = set()
        self._came: dict[Connection, int] = {}  # datagrams in this turn
        self._outbox: deque[tuple[bytes, UdpAddress, bytes | None]] = deque()
        self._flush = trio.Event()
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)
        forbid_fragments(sock)
        # A host has several addresses: the peer must be answered from the one that it knows
        self._told_local = sock.family == socket.AF_INET6 or host == "0.0.0.0"
        if self._told_local:
            tell_local(sock)

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def newcomers(self) -> int:
        """Connections that are still shaking hands, begun by others."""
        return len(self._newcomers)

    # ----------------------------------------------------------------------------------------------------------------
    # Reading

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_when_possible)
            buffer = bytearray(LARGEST + 1)
            while True:
                await trio.lowlevel.wait_readable(self._sock)
                self._read(buffer)
                await trio.lowlevel.checkpoint()

    def _read(self, buffer: bytearray) -> None:
        now = trio.current_time()
        view = memoryview(buffer)
        while True:
            try:
                size, ancillary, _, source = self._sock.recvmsg_into([view], ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                break  # what the network says of a datagram that we had sent
            self._traffic.received += size
            if size > LARGEST:  # which nobody sends who was told; taken apart, it would cost forty times as much
                self.dropped += 1
            else:
                self._on_datagram(bytes(view[:size]), source, local_of(ancillary), now)
            if self._turn.spend(COST) or trio.current_time() - now > SLICE:
                break
        came, self._came = self._came, {}
        for connection, count in came.items():
            connection.received_all(now, count)

    def _on_datagram(self, data: bytes, source: UdpAddress, local: bytes | None, now: float) -> None:
        header, cid = None, data[1 : 1 + CID_LENGTH]  # where a short header has it, which most datagrams have
        if data[:1] >= LONG_HEADER:
            try:
                header = pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)
            except ValueError:
                self.dropped += 1
                return
            cid = header.destination_cid
        connection = self._routes.get(cid)
        if connection is not None:
            self._receive(connection, data, source, local, now)
            self._came[connection] = self._came.get(connection, 0) + 1
        elif header is None:
            self._on_unknown(data, source, local, now)
        else:
            self._on_long_header(data, source, local, header, now)

    def _receive(
        self, connection: Connection, data: bytes, source: UdpAddress, local: bytes | None, now: float
    ) -> None:
        """We answer from the address that the peer knows; what anybody may have sent there does not change it."""
        if local == connection.local:
            connection.receive(data, source, now)
            return
        before = connection.engine.received
        connection.receive(data, source, now)
        if connection.local is None or connection.engine.received > before:
            connection.local = local

    def _on_unknown(self, data: bytes, source: UdpAddress, local: bytes | None, now: float) -> None:
        """A datagram of a connection that we do not know, or what looks like one."""
        self.dropped += 1
        if not self._is_reset(data, source):
            answer = self._answers.reset(data[1 : 1 + CID_LENGTH], len(data), now)
            self._answer(answer, source, local)

    def _on_long_header(
        self, data: bytes, source: UdpAddress, local: bytes | None, header: QuicHeader, now: float
    ) -> None:
        """A datagram that begins no connection that we know, and may begin another."""
        if not self.accepts or len(data) < DATAGRAM or header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            self.dropped += 1
        elif header.version != VERSION:
            self.dropped += 1
            self._answer(self._answers.versions(header, now), source, local)
        elif header.packet_type is QuicPacketType.INITIAL and len(header.destination_cid) >= SHORTEST_CID:
            self._answer(self._on_newcomer(data, source, local, header, now), source, local)
        else:
            self.dropped += 1

    def _answer(self, answer: bytes | None, source: UdpAddress, local: bytes | None) -> None:
        if answer is not None:
            self._send_one(answer, source, local)

    def _is_reset(self, data: bytes, source: UdpAddress) -> bool:
        for connection in self._sources.get(source, ()):
            if is_reset(data, connection.engine.reset_tokens()):
                connection.forgotten()
                return True
        return False

    def _on_newcomer(
        self, data: bytes, source: UdpAddress, local: bytes | None, header: QuicHeader, now: float
    ) -> bytes | None:
        """What is answered to somebody's first datagram; None where a connection is made of it, or nothing is."""
        original, retried = header.destination_cid, None
        if header.token:
            found = self._answers.original(header, source, now)
            if found is None:
                return self._answers.refusal(header, QuicErrorCode.INVALID_TOKEN, now)
            original, retried = found, header.destination_cid
        elif len(self._newcomers) >= UNPROVEN or not self._trust.take(now):
            self.retries += 1
            return self._answers.retry(header, source, now)
        remote = from_endpoint(str(source[0]), int(source[1]), QUIC)
        if not self._owner.admits(remote, self._name_of(local), proven=retried is not None):
            return self._answers.refusal(header, QuicErrorCode.CONNECTION_REFUSED, now)
        connection = Connection(self, remote, source, initiator=False)
        connection.engine = Engine(
            self._identity,
            self._identity.configuration(is_client=False, idle=self._idle()),
            connection,
            original=original,
            retried=retried,
            validated=source if retried is not None else None,
        )
        connection.local = local
        self._connections[connection] = set()
        self.moved(connection, source, source)
        self._newcomers.add(connection)
        for cid in (header.destination_cid, *connection.engine.cids()):
            self.lead(cid, connection)
        connection.receive(data, source, now)
        self._owner.accept(connection)
        return None

    def _name_of(self, local: bytes | None) -> str:
        return socket.inet_ntop(self._sock.family, local) if local else self.bound.host

    def _idle(self) -> float:
        return max(IDLE, self._owner.idle())

    # ----------------------------------------------------------------------------------------------------------------
    # Dialling

    def connect(self, address: Address) -> Connection:
        """A connection to be begun, by `Connection.upgrade`."""
        target = self._target(address)
        connection = Connection(self, address.bare, target, initiator=True)
        configuration = self._identity.configuration(is_client=True, idle=self._idle())
        connection.engine = Engine(self._identity, configuration, connection)
        connection.from_own_port = self.accepts
        self._connections[connection] = set()
        self.moved(connection, target, target)
        return connection

    def knock(self, address: Address) -> None:
        """Send a few random bytes there, so that a NAT on our side lets in what comes from there. Nobody answers so
        short a datagram with a stateless reset (RFC 9000, 10.3)."""
        self._send_one(os.urandom(KNOCK), self._target(address), None)

    def _target(self, address: Address) -> UdpAddress:
        return (address.host, address.port, 0, 0) if address.kind == "ip6" else (address.host, address.port)

    # ----------------------------------------------------------------------------------------------------------------
    # What its connections ask for

    def send(self, datagrams: list[tuple[bytes, UdpAddress]], connection: Connection) -> None:
        local = connection.local
        for run in runs(datagrams):
            if len(run) == 1 or self._outbox or not self._put_together(run, local):
                for data, target in run:
                    self._send_one(data, target, local)

    def _send_one(self, data: bytes, target: UdpAddress, local: bytes | None) -> None:
        if self._outbox:
            if len(self._outbox) < OUTBOX:
                self._outbox.append((data, target, local))
            return
        if not self._put(data, target, local):
            self._outbox.append((data, target, local))
            self._flush.set()

    def _put_together(self, run: Sequence[tuple[bytes, UdpAddress]], local: bytes | None) -> bool:
        """As `_put`, of some in one call."""
        try:
            taken = send_together(self._sock, run, [] if local is None else [sent_from(local)])
        except OSError as error:
            log.debug("datagrams were not sent", error=error.strerror)
            return True
        if taken:
            self._traffic.sent += sum(len(data) for data, _ in run)
        return taken

    def _put(self, data: bytes, target: UdpAddress, local: bytes | None) -> bool:
        """Whether the kernel has taken it. What it cannot send is lost, as on any way."""
        try:
            if local is None:
                self._sock.sendto(data, target)
            else:
                self._sock.sendmsg([data], [sent_from(local)], 0, target)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            log.debug("a datagram was not sent", error=error.strerror)
            return True
        self._traffic.sent += len(data)
        return True

    async def _flush_when_possible(self) -> None:
        while True:
            await self._flush.wait()
            self._flush = trio.Event()
            while self._outbox:
                await trio.lowlevel.wait_writable(self._sock)
                while self._outbox and self._put(*self._outbox[0]):
                    self._outbox.popleft()
            for connection in list(self._connections):
                connection.send_soon()

    def opens_stream(self) -> None:
        self._turn.spend(OPENING)

    def is_blocked(self) -> bool:
        return bool(self._outbox)

    def owe(self, size: int) -> None:
        self._owner.owe(size)

    def owes(self) -> bool:
        return self._owner.owes()

    def lead(self, cid: bytes, connection: Connection | None) -> None:
        if connection is not None:
            if connection in self._connections and self._routes.setdefault(cid, connection) is connection:
                self._connections[connection].add(cid)
        elif (before := self._routes.pop(cid, None)) is not None and before in self._connections:
            self._connections[before].discard(cid)

    def moved(self, connection: Connection, before: UdpAddress, after: UdpAddress) -> None:
        self._left(connection, before)
        self._sources.setdefault(after, set()).add(connection)

    def _left(self, connection: Connection, source: UdpAddress) -> None:
        there = self._sources.get(source)
        if there is not None:
            there.discard(connection)
            if not there:
                del self._sources[source]

    def known(self, connection: Connection) -> bool:
        self._newcomers.discard(connection)
        if connection.is_initiator or connection.engine.was_retried:
            return True
        return self._owner.admits(connection.remote, self._name_of(connection.local), proven=True)

    def turn_away(self, data: bytes, connection: Connection) -> None:
        header = pull_quic_header(Buffer(data=data), host_cid_length=CID_LENGTH)
        answer = self._answers.refusal(header, QuicErrorCode.CONNECTION_REFUSED, trio.current_time())
        self._answer(answer, connection.target, connection.local)

    def refusal(self, host: str) -> str | None:
        return self._owner.refusal(host)

    def forget(self, connection: Connection) -> None:
        self._newcomers.discard(connection)
        self._came.pop(connection, None)
        self._left(connection, connection.target)
        for cid in self._connections.pop(connection, ()):
            self._routes.pop(cid, None)

    def close(self) -> None:
        """Its connections have ended."""
        self._sock.close()
