"""Yamux as this node runs it: agreed on by us, and with round trips that are measured right.

libp2p 0.8.1's `MuxerMultistream.new_conn` makes its own `Yamux` whatever class it is given, and that one notes when a
ping was sent only after the write has returned; a pong that is quicker counts from zero, which is the machine's uptime.
"""

from __future__ import annotations

import struct

import trio
from libp2p.abc import ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, PROTOCOL_ID, TYPE_PING, YAMUX_HEADER_FORMAT, Yamux

YAMUX = TProtocol(PROTOCOL_ID)
NEGOTIATION = 10  # seconds
FIRST_PING = 0.5  # seconds after the connection came up
PING_INTERVAL = 30.0
PONG_TIMEOUT = 10.0


class Muxer(Yamux):
    """One connection's streams. `rtt` is the smoothed round trip in seconds, 0 until it is known."""

    async def _measure_rtt_loop(self) -> None:
        pause = FIRST_PING
        while True:
            with trio.move_on_after(pause):
                await self.event_shutting_down.wait()
                return
            pause = PING_INTERVAL
            self._ping_id += 1
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            await self._write_frame(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, self._ping_id))
            with trio.move_on_after(PONG_TIMEOUT):
                await self._ping_event.wait()


async def upgrade(secured: ISecureConn) -> Muxer:
    """Agree on yamux over a secured connection. Raises libp2p's errors of the negotiation."""
    communicator = MultiselectCommunicator(secured)
    if secured.is_initiator:
        await MultiselectClient().select_one_of([YAMUX], communicator, NEGOTIATION)
    else:
        await Multiselect({YAMUX: None}).negotiate(communicator, NEGOTIATION)
    return Muxer(secured, secured.get_remote_peer(), is_initiator=secured.is_initiator)
