"""aioquic's QUIC connection (RFC 9000, 9001, 9002), sans I/O, as this node wants it. All that is known of the inside of
aioquic is in this module, `probing`, `short_way`, `recovery` and `halves`; its version is pinned for that.

What differs from aioquic's own behaviour:

- Windows follow the reader. aioquic doubles a window as soon as half of it has *come*, whether anybody reads or not.
- Both sides show a certificate, and what is in it is judged by `certificate`, in the middle of the handshake.
- What is kept of a peer that has not shown who it is has a small bound.
- Connection ids have stateless reset tokens that any run of this node can make again.
- Most packets go a short way (`short_way`). Datagrams are as large as the path carries (`probing`).
- A peer that acknowledges what was not sent is let go; `recovery` leaves numbers out to find those who guess.
- Streams that a peer may open are told to it at a bounded rate, and it may open none that is unidirectional.
"""

from __future__ import annotations

import os
from typing import Protocol

from aioquic import tls
from aioquic.buffer import Buffer, size_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509

from fabstird.p2p.quic.halves import drop, in_order, owed, pieces, prepare, ranges, unblocked
from fabstird.p2p.quic.identity import CID_LENGTH, GROUPS, WINDOW, Identity, UdpAddress
from fabstird.p2p.quic.probing import LARGEST, Probing
from fabstird.p2p.quic.recovery import Recovery
from fabstird.p2p.quic.stream_limit import StreamLimit
from fabstird.p2p.security import certificate
from fabstird.p2p.security.keys import PeerKey
from fabstird.p2p.security.secured import HandshakeFailed, WrongPeer
from fabstird.p2p.wire.errors import PeerError

MAX_HANDSHAKE = 16 * 1024  # bytes of TLS that a peer may send in one epoch; a certificate has at most half of that
MAX_STREAMS = 256  # that a peer may have open on one connection
MAX_LEFT = 1024  # streams that one side has ended and the other has not
MAX_PIECES = 2048  # of all streams of a connection that have come out of order, each with a gap before it
MAX_PIECES_OF_HANDSHAKE = 64  # of one epoch
MIN_IDLE = 2.0  # seconds of silence that a peer can bear, whatever it says: half of it passes between our pings
_FIN, _LEN, _OFF = 1, 2, 4  # of a frame of a stream, by its type (RFC 9000, 19.8)
_MAX_UDP_PAYLOAD_SIZE = 3  # a transport parameter
CERTIFICATE_REQUIRED = QuicErrorCode.CRYPTO_ERROR + 116


class Owner(Protocol):
    """Whom the engine tells of bytes as they come, before they are in order."""

    def grown(self, number: int, size: int) -> None:
        """A stream has come to reach so many bytes further, or will when what lies between has come."""


class Engine(Probing):
    """One connection. ``expected`` is the peer that must be at the other end, None for anybody; ``peer_key`` is whoever
    has shown itself. ``unread`` are the bytes that have come, or will, and that nobody has read."""

    def __init__(
        self,
        identity: Identity,
        configuration: QuicConfiguration,
        owner: Owner,
        *,
        original: bytes | None = None,
        retried: bytes | None = None,
        validated: UdpAddress | None = None,
    ) -> None:
        """For a server: ``original`` is the connection id that the client has chosen first, ``retried`` the one that a
        Retry told it, and ``validated`` the address that it has shown to be its own by that."""
        self._identity = identity
        self._owner = owner
        self.expected: str | None = None
        self.peer_key: PeerKey | None = None
        self.refusal: HandshakeFailed | None = None  # why the peer's certificate was not taken
        self.unread = 0
        self._pieces = 0  # not fewer than there are
        self._defect: Exception | None = None  # an error of ours, not what a peer's bytes have aioquic raise
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        self._loss = Recovery(
            lambda: self._packet_number,
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=configuration.max_datagram_size,
            peer_completed_address_validation=not configuration.is_client,
            send_probe=self._send_probe,
        )
        for host_cid in self._host_cids:
            if not configuration.is_client:
                host_cid.stateless_reset_token = identity.token(host_cid.cid)
        self._local_max_streams_bidi = self._streams_limit = StreamLimit(
            QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", MAX_STREAMS
        )
        self._local_max_streams_uni = Limit(QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", 0)
        if validated is not None:
            self._network_paths = [QuicNetworkPath(validated, is_validated=True)]

    # ----------------------------------------------------------------------------------------------------------------
    # How it stands

    @property
    def is_up(self) -> bool:
        """Both sides have finished the handshake."""
        return self._handshake_complete

    @property
    def was_retried(self) -> bool:
        """Its address was shown to be its own before it came here."""
        return self._retry_source_connection_id is not None

    @property
    def has_begun(self) -> bool:
        """It has begun the handshake itself, or could read what the other side has begun it with."""
        return bool(self._spaces) and (self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT)

    @property
    def over(self) -> bool:
        """Nothing comes or goes any more."""
        return self._state in END_STATES

    @property
    def is_draining(self) -> bool:
        """The peer has closed it."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def is_client(self) -> bool:
        return self._is_client

    def owed(self) -> int:
        """Bytes of streams that were written and that the peer has not acknowledged."""
        return sum(owed(stream) for stream in self._streams.values())

    @property
    def closed_with(self) -> tuple[int, bool, str] | None:
        """The error code of its end, whether the application gave it, and words; None while it has none."""
        event = self._close_event
        return None if event is None else (event.error_code, event.frame_type is None, event.reason_phrase)

    @property
    def received(self) -> int:
        """Grows with each packet of the peer's that was new and could be decrypted."""
        return int(self._spaces[tls.Epoch.ONE_RTT].largest_received_packet) + 1 if self._spaces else 0

    @property
    def rtt(self) -> float:
        """Smoothed round trip in seconds; 0 until one is known."""
        return float(self._loss._rtt_smoothed) if self._loss._rtt_initialized else 0.0

    @property
    def idle(self) -> float:
        """Seconds of silence after which either side takes it for ended."""
        return self._idle_timeout()

    @property
    def streams_left(self) -> int:
        """Streams of which not both sides have ended."""
        return len(self._streams)

    @property
    def remote(self) -> UdpAddress | None:
        """Where the peer is now; it may move. None until it has shown that it hears us there (RFC 9000, 9.3): anybody
        can write another's address on what he sends."""
        path = self._network_paths[0] if self._network_paths else None
        return path.addr if path is not None and path.is_validated else None

    def cids(self) -> list[bytes]:
        """Connection ids that lead here."""
        return [one.cid for one in self._host_cids]

    def reset_tokens(self) -> list[bytes]:
        """Tokens by which the peer may tell that it knows nothing of this connection."""
        ids = [self._peer_cid, *self._peer_cid_available]
        return [one.stateless_reset_token for one in ids if one.stateless_reset_token]

    def acknowledge(self, now: float) -> None:
        """Let what has come be acknowledged with the next datagram, not a moment later."""
        for space in self._loss.spaces:
            if space.ack_at is not None:
                space.ack_at = min(space.ack_at, now)

    def due(self) -> float | None:
        """When `handle_timer` is to be called."""
        timers = (self.get_timer(), self._streams_limit.due() if self.is_up else None)
        return min((one for one in timers if one is not None), default=None)

    # ----------------------------------------------------------------------------------------------------------------
    # Streams

    def open(self) -> tuple[int, QuicStream]:
        """A new stream of ours, and its number."""
        number = self.get_next_available_stream_id()
        return number, self._get_or_create_stream_for_send(number)

    def stream(self, number: int) -> QuicStream | None:
        """None once both sides have ended it."""
        return self._streams.get(number)

    def let_go(self) -> None:
        """It is over: keep nothing of what has come or was to be sent. What refers to what here is a circle, which is
        there until somebody collects it."""
        for stream in self._streams.values():
            drop(stream)
            stream.sender._buffer.clear()
        self._streams.clear()
        self._streams_queue.clear()
        self._events.clear()
        self._crypto_streams.clear()
        self._crypto_buffers.clear()
        for space in self._spaces.values():
            space.sent_packets.clear()

    # ----------------------------------------------------------------------------------------------------------------
    # Its parts that differ from aioquic's

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = not self._is_client
        self.tls._supported_groups = GROUPS.copy()
        setattr(self.tls, "_set_peer_certificate", self._vet)  # noqa: B010 - a method that is called where it is read
        for stream in self._crypto_streams.values():
            prepare(stream)
        for space in self._spaces.values():
            space.ack_queue = ranges()

    def _serialize_transport_parameters(self) -> bytes:
        """With the largest datagram that is taken (RFC 9000, 18.2)."""
        buf = Buffer(capacity=8)
        for number in (_MAX_UDP_PAYLOAD_SIZE, size_uint_var(LARGEST), LARGEST):
            buf.push_uint_var(number)
        return bytes(super()._serialize_transport_parameters()) + bytes(buf.data)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        """Of what a peer asks for, a move to another address is not done: it would have us send wherever it likes. Nor
        is it taken at its word that it bears no silence."""
        super()._parse_transport_parameters(data, from_session_ticket)
        self._remote_preferred_address = None
        if self._remote_max_idle_timeout is not None:  # 0 is none
            self._remote_max_idle_timeout = max(
                MIN_IDLE, self._remote_max_idle_timeout or self._configuration.idle_timeout
            )

    def _vet(self, shown: tls.Certificate) -> None:
        """A peer's certificate has come: it is measured before it is parsed."""
        try:
            if len(shown.certificates) != 1:
                raise HandshakeFailed("it has shown more than one certificate")
            encoded = shown.certificates[0][0]
            key = certificate.verify(encoded)
            if self.expected not in (None, key.peer_id):
                raise WrongPeer(f"{key.peer_id} answers there")
            self.tls._peer_certificate = x509.load_der_x509_certificate(encoded)
        except HandshakeFailed as error:
            self.refusal = error
            raise tls.AlertBadCertificate("the certificate is not taken") from error
        self.peer_key = key

    def receive_datagram(self, data: bytes, addr: UdpAddress, now: float) -> None:
        """As aioquic's. Raises `PeerError` where the peer has brought aioquic to an end that it does not foresee."""
        try:
            if not self.receive_short(data, addr, now):
                super().receive_datagram(data, addr, now)
        except Exception as error:
            if error is self._defect:
                raise
            raise PeerError(f"aioquic can make nothing of what it sends: {error!r}") from error

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        at = buf.tell()
        if buf.pull_uint_var() + buf.pull_uint_var() > MAX_HANDSHAKE:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too long a handshake")
        buf.seek(at)
        super()._handle_crypto_frame(context, frame_type, buf)
        if pieces(self._crypto_streams[context.epoch]) > MAX_PIECES_OF_HANDSHAKE:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "a handshake in too many pieces"
            )
        if self._handshake_complete and self.peer_key is None:
            self.refusal = HandshakeFailed("it has shown no certificate")
            raise QuicConnectionError(CERTIFICATE_REQUIRED, frame_type, "a certificate is required")

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        prepare(stream)
        return stream

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        waiting = list(self._streams_blocked_bidi)
        super()._unblock_streams(is_unidirectional)
        for stream in waiting:
            if not stream.is_blocked:
                unblocked(stream)

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        at = buf.tell()
        number = buf.pull_uint_var()
        before, known = self._local_max_data.used, self._streams.get(number)
        if known is not None and not frame_type & _FIN and self._follows(known, number, frame_type, buf):
            self._tell_owner(number, self._local_max_data.used - before)
            return
        buf.seek(at)
        apart = 0 if known is None else pieces(known)
        super()._handle_stream_frame(context, frame_type, buf)
        self._pieces += pieces(self._streams[number]) - apart
        if self._pieces > MAX_PIECES:
            self._pieces = sum(
                pieces(one) for one in self._streams.values()
            )  # streams that have gone took theirs along
            if self._pieces > MAX_PIECES:
                raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, frame_type, "too many gaps in its streams")
        if self._local_max_data.used > before:
            self._tell_owner(number, self._local_max_data.used - before)

    def _follows(self, stream: QuicStream, number: int, frame_type: int, buf: Buffer) -> bool:
        """Take a frame that follows on all that has come of a stream; what is not so is left to aioquic."""
        offset = buf.pull_uint_var() if frame_type & _OFF else 0
        size = buf.pull_uint_var() if frame_type & _LEN else buf.capacity - buf.tell()
        if self._local_max_data.used + size > self._local_max_data.value or size > buf.capacity - buf.tell():
            return False
        if not in_order(stream, offset, offset + size):
            return False
        self._local_max_data.used += size
        data = buf.pull_bytes(size)
        self._events.append(StreamDataReceived(data=data, end_stream=False, stream_id=number))
        return True

    def _tell_owner(self, number: int, size: int) -> None:
        try:
            self._owner.grown(number, size)
        except Exception as error:
            self._defect = error
            raise

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(8, self._remote_active_connection_id_limit):
            cid = os.urandom(CID_LENGTH)
            self._host_cids.append(QuicConnectionId(cid, self._host_cid_seq, self._identity.token(cid)))
            self._host_cid_seq += 1

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        data, streams = self._local_max_data, self._streams_limit
        if data.value - data.used < WINDOW // 2:
            data.value = max(data.value, data.used - self.unread + WINDOW)
        for limit in (data, streams):
            if limit.value != limit.sent:
                buf = builder.start_frame(
                    limit.frame_type,
                    capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buf.push_uint_var(limit.value)
                limit.sent = limit.value

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.stream_id is not None and stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, UdpAddress]]:
        self._streams_limit.grant(now)
        if self._handshake_confirmed:
            self._packet_number = self._loss.skips.number(self._packet_number)
        return self.probes(now) + self.bulk(now) + super().datagrams_to_send(now)
