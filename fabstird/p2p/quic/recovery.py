"""What a peer says that it has received (RFC 9000, 13.1 and 21.4), before aioquic's loss recovery believes it.

A peer that acknowledges what it has not received makes a sender believe that the way carries more than it does. So a
packet number is left out now and then, at random: only who guesses acknowledges it. Neither that nor a number that was
not reached yet can come from an honest peer, and each ends the connection.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery, QuicPacketSpace

from fabstird.p2p.quic.identity import DATAGRAM
from fabstird.p2p.quic.path_mtu import PathMtu

PERIOD, LONGEST_PERIOD = 256, 128 * 1024  # packets from one number left out to the next: at first, and in the end
REMEMBERED = 16  # numbers left out; whatever was sent before the oldest of them is acknowledged or lost by then
_random = random.SystemRandom()


class Skips:
    """Which packet numbers are left out. Each gap is on average twice as long as the one before."""

    def __init__(self, first: int = 0) -> None:
        self.skipped: deque[int] = deque(maxlen=REMEMBERED)
        self.period = PERIOD
        self.due = 0
        self._choose(first)

    def number(self, number: int) -> int:
        """The number to be used where ``number`` would be next."""
        if number < self.due:
            return number
        self.skipped.append(number)
        self._choose(number + 1)
        self.period = min(2 * self.period, LONGEST_PERIOD)
        return number + 1

    def _choose(self, number: int) -> None:
        self.due = number + 1 + _random.randrange(2 * self.period)


class Recovery(QuicPacketRecovery):
    """``following`` tells the number of the next packet."""

    def __init__(self, following: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self._following = following
        self.skips = Skips()
        self.mtu = PathMtu(DATAGRAM)

    def on_ack_received(self, *, ack_rangeset: RangeSet, ack_delay: float, now: float, space: QuicPacketSpace) -> None:
        """As aioquic's. Raises `QuicConnectionError` where it names a packet that was never sent."""
        largest = ack_rangeset[-1].stop - 1
        if largest >= self._following():
            raise _violation("acknowledges a packet before it was sent")
        for number in self.skips.skipped:
            if number <= largest and number in ack_rangeset:
                raise _violation("acknowledges a packet that was left out")
        if self.mtu.is_doubted and any(
            packet.sent_bytes > DATAGRAM and packet.in_flight and number in ack_rangeset
            for number, packet in space.sent_packets.items()
        ):
            self.mtu.large_arrived()
        super().on_ack_received(ack_rangeset=ack_rangeset, ack_delay=ack_delay, now=now, space=space)

    def _on_packets_lost(
        self,
        *,
        congestion_event: bool = True,
        now: float,
        packets: Iterable[QuicSentPacket],
        persistent_congestion: bool = False,
        space: QuicPacketSpace,
    ) -> None:
        lost = list(packets)
        super()._on_packets_lost(
            congestion_event=congestion_event,
            now=now,
            packets=lost,
            persistent_congestion=persistent_congestion,
            space=space,
        )
        if any(packet.sent_bytes > DATAGRAM and packet.in_flight for packet in lost):
            self.mtu.large_lost(now)
            self.resize()

    def resize(self) -> None:
        """Congestion control and pacing reckon with datagrams of the size that is sent."""
        self._cc._max_datagram_size = self._pacer._max_datagram_size = self.mtu.size  # type: ignore[attr-defined]


def _violation(words: str) -> QuicConnectionError:
    return QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, QuicFrameType.ACK, words)
