"""Tries how large a datagram the path carries, and sends such ones (`path_mtu` decides)."""

from __future__ import annotations

from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.connection import QuicNetworkPath
from aioquic.quic.packet import pull_quic_transport_parameters
from aioquic.quic.packet_builder import QuicDeliveryState

from fabstird.p2p.quic.identity import DATAGRAM, UdpAddress
from fabstird.p2p.quic.path_mtu import BEFORE, PathMtu, most
from fabstird.p2p.quic.recovery import Recovery
from fabstird.p2p.quic.short_way import ShortWay

LARGEST = 1500  # bytes of a datagram that is taken; peers are told


class Probing(ShortWay):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loss: Recovery
        self._peer_takes = DATAGRAM  # bytes of a datagram, as far as is known
        self._measured: QuicNetworkPath | None = None  # the path that the search is about

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        told = pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size
        self._peer_takes = LARGEST if told is None else min(LARGEST, told)

    def probes(self, now: float) -> list[tuple[bytes, UdpAddress]]:
        """A datagram that tries whether the path carries larger ones, where that is due. Whatever is sent after it may
        be as large as is known by now."""
        loss, path, found = self._loss, self._network_paths[0], []
        if path is not self._measured and loss.mtu.size > DATAGRAM:
            loss.mtu = PathMtu(DATAGRAM)  # a path that the peer has moved to
        if self._packet_number >= BEFORE and self.stands():
            if path is not self._measured:
                self._measured, loss.mtu = path, PathMtu(most(path.addr, self._peer_takes))
            size = loss.mtu.due(now) if loss.congestion_window - loss.bytes_in_flight > LARGEST else None
            if size is not None:
                found.append((self._probe(size, now), path.addr))
        if loss.mtu.size != self._max_datagram_size:
            self._max_datagram_size = loss.mtu.size
            loss.resize()
        return found

    def _probe(self, size: int, now: float) -> bytes:
        """A datagram that shows by its arrival that one of ``size`` bytes arrives. Its loss tells nothing of how much
        the path carries in a second: it counts as none that is in flight."""
        number, packet = self.sealed(b"\1".ljust(self.room(size), b"\0"))
        self.sent(packet, number, (self._probed, (self._loss.mtu, size, now)), now, in_flight=False)
        self._loss._time_of_last_sent_ack_eliciting_packet = now
        return packet

    def _probed(self, delivery: QuicDeliveryState, mtu: PathMtu, size: int, sent: float) -> None:
        if delivery is QuicDeliveryState.ACKED:
            mtu.arrived(size, sent)
        else:
            mtu.failed(size, sent)

    def _send_probing_frames(self, network_path: QuicNetworkPath, now: float) -> list[tuple[bytes, UdpAddress]]:
        """As aioquic's, in datagrams that each path carries: nothing is known of this one."""
        size, self._max_datagram_size = self._max_datagram_size, DATAGRAM
        try:
            return super()._send_probing_frames(network_path=network_path, now=now)
        finally:
            self._max_datagram_size = size
