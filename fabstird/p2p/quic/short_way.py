"""The short way of most packets: those of a connection that stands, which carry bytes of a stream or acknowledge them.

aioquic looks at each packet and frame for all that there may be, and builds each packet step by step. What is here does
the same for the usual ones alone, with half of the work; whatever is unusual in the least is left to aioquic.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aioquic._crypto import CryptoError
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var
from aioquic.quic.connection import (
    END_STATES,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.quic.stream import QuicStream, StreamFinishedError
from aioquic.tls import Epoch

from fabstird.p2p.quic.halves import cut_out, delivered, waits_to_send
from fabstird.p2p.quic.identity import CID_LENGTH, UdpAddress

_SHORT = 0x40  # the first byte of a short header, without what follows (RFC 9000, 17.3)
_RESERVED, _SPIN, _TWO_BYTES = 0x18, 0x20, 1  # of the first byte; the last for a packet number of two bytes
_OFFSET, _ENDLESS = 0x80000000, QuicFrameType.STREAM_BASE | 4  # an offset of four bytes; a frame up to its packet's end
_MOST_OF_OFFSET = 1 << 30
_TAG = 16  # bytes that encryption adds
_ACK, _MAX_STREAM_DATA = QuicFrameType.ACK, QuicFrameType.MAX_STREAM_DATA


class ShortWay(QuicConnection):
    def receive_short(self, data: bytes, addr: UdpAddress, now: float) -> bool:
        """Whether it was one packet of a connection that stands, from where its peer is; then it is done with."""
        if not (b"\x40" <= data[:1] < b"\x80" and data[1 : 1 + CID_LENGTH] == self.host_cid and self.stands()):
            return False
        path = self._network_paths[0]
        if path.addr != addr:
            return False
        space = self._spaces[Epoch.ONE_RTT]
        try:
            header, payload, number = self._cryptos[Epoch.ONE_RTT].decrypt_packet(
                data, 1 + CID_LENGTH, space.expected_packet_number
            )
        except CryptoError:
            return True
        if number in space.received_packets:
            return True
        if header[0] & _RESERVED:
            self.close(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.PADDING, "Reserved bits must be zero")
            return True
        if number > space.expected_packet_number:
            space.expected_packet_number = number + 1
        if number > self._spin_highest_pn:
            self._spin_bit = bool(header[0] & _SPIN) is not self._is_client
            self._spin_highest_pn = number
        context = QuicReceiveContext(Epoch.ONE_RTT, self.host_cid, path, None, now, None)
        try:
            is_ack_eliciting, _ = self._payload_received(context, payload)
        except QuicConnectionError as error:
            self.close(error.error_code, error.frame_type, error.reason_phrase)
        if self._state in END_STATES or self._close_pending:
            return True
        self._close_at = now + self._idle_timeout()
        self._ack_eliciting_sent_since_receipt = False
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if is_ack_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay
        return True

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        """As aioquic's; the frames that are not the usual ones, and all after them, are left to it."""
        if context.epoch is not Epoch.ONE_RTT:
            return super()._payload_received(context, plain, crypto_frame_required)
        buf, at, is_ack_eliciting = Buffer(data=plain), 0, False
        try:
            while at < len(plain):
                kind = plain[at]
                buf.seek(at + 1)
                if kind & 0xF8 == QuicFrameType.STREAM_BASE:
                    try:
                        self._handle_stream_frame(context, kind, buf)
                    except StreamFinishedError:
                        pass
                elif kind == _ACK:
                    self._handle_ack_frame(context, kind, buf)
                    at = buf.tell()
                    continue
                elif kind == _MAX_STREAM_DATA:
                    self._handle_max_stream_data_frame(context, kind, buf)
                else:
                    rest, is_probing = super()._payload_received(context, plain[at:] if at else plain)
                    return is_ack_eliciting or rest, is_probing and not at
                is_ack_eliciting = True
                at = buf.tell()
        except BufferReadError as error:
            raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, kind, "Failed to parse frame") from error
        if not plain:
            return super()._payload_received(context, plain)
        return is_ack_eliciting, False

    def bulk(self, now: float) -> list[tuple[bytes, UdpAddress]]:
        """Datagrams full of one stream's bytes each, of the streams in turn, as long as the next stream fills one and
        the way takes it."""
        path = self._network_paths[0]
        if not self.stands():
            return []
        waiting = deque(stream for stream in self._streams_queue if waits_to_send(stream))
        if not waiting:
            return []
        found: list[tuple[bytes, UdpAddress]] = []
        served: dict[QuicStream, None] = {}
        loss, room = self._loss, self.room(self._max_datagram_size)
        while (
            waiting
            and loss.congestion_window - loss.bytes_in_flight >= self._max_datagram_size
            and loss._pacer.next_send_time(now=now) is None
        ):
            stream = waiting.popleft()
            before = stream.sender.highest_offset
            head = bytes((_ENDLESS,)) + encode_uint_var(stream.stream_id or 0)
            limit = min(before + self._remote_max_data - self._remote_max_data_used, stream.max_stream_data_remote)
            part = cut_out(stream, room - len(head) - 4, min(limit, _MOST_OF_OFFSET))
            if part is None:
                break
            offset, data = part
            self._remote_max_data_used += stream.sender.highest_offset - before
            number, packet = self.sealed(head + (_OFFSET | offset).to_bytes(4, "big") + data)
            self.sent(packet, number, (delivered, (stream, offset, offset + len(data))), now)
            self._loss._pacer.update_after_send(now=now)
            path.bytes_sent += len(packet)
            found.append((packet, path.addr))
            waiting.append(stream)
            served[stream] = None
        if served:
            self._streams_queue = [stream for stream in self._streams_queue if stream not in served]
            self._streams_queue += served
        return found

    def stands(self) -> bool:
        """It is up, nobody ends it, and the peer hears us where it is."""
        return (
            self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and self._network_paths[0].is_validated
        )

    def room(self, size: int) -> int:
        """Bytes of frames in a datagram."""
        return size - 1 - len(self._peer_cid.cid) - 2 - _TAG

    def sealed(self, frames: bytes) -> tuple[int, bytes]:
        """The next packet, and its number."""
        crypto, number = self._cryptos[Epoch.ONE_RTT], self._packet_number
        first = _SHORT | self._spin_bit << 5 | crypto.key_phase << 2 | _TWO_BYTES
        head = bytes((first,)) + self._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
        self._packet_number = number + 1
        return number, crypto.encrypt_packet(head, frames, number)

    def sent(self, packet: bytes, number: int, handler: tuple[Any, Any], now: float, *, in_flight: bool = True) -> None:
        """A packet with one frame, of whose delivery ``handler`` is told."""
        sent = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=in_flight,
            is_ack_eliciting=True,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=len(packet),
            delivery_handlers=[handler],
        )
        self._loss.on_packet_sent(packet=sent, space=self._spaces[Epoch.ONE_RTT])
        if not self._ack_eliciting_sent_since_receipt:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True
