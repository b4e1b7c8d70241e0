"""One connection to a peer: what is known of it, the streams that the peer opens on it, and why it ended."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol, cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import StreamHandlerFn
from libp2p.io.exceptions import IOException
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream, StreamState
from libp2p.network.swarm import Swarm as LibSwarm
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE

from fabstir_client.types import Direction
from fabstird.log import Throttled, get_logger
from fabstird.p2p import yamux
from fabstird.p2p.addresses import Address
from fabstird.p2p.transport import Pipe
from fabstird.p2p.yamux import Muxer

log = get_logger("p2p.link")
handler_failed = Throttled(log)

GOODBYE = 0.25  # seconds for telling a peer that we close; a peer that does not read gets no more


class Owner(Protocol):
    """What a link needs of the swarm that owns it."""

    common_stream_handler: StreamHandlerFn
    stream_errors: int


class Link(SwarmConn):
    """One connection to a peer that is up. ``reason`` is set when it ends and says why, in the words of
    ``peer:disconnect``."""

    muxed_conn: Muxer

    def __init__(self, muxed: Muxer, owner: Owner, pipe: Pipe, address: Address) -> None:
        self.direction_text: Direction = "outbound" if pipe.is_initiator else "inbound"
        super().__init__(muxed, cast(LibSwarm, owner), direction=self.direction_text)
        self._owner = owner
        self.pipe = pipe
        self.peer_id = muxed.peer_id.to_base58()
        self.address = str(replace(address, peer_id=self.peer_id))
        self.relayed = address.relay is not None
        self.transport = "p2p-circuit" if address.relay else str(address.transport)
        self.security = str(NOISE)
        self.muxer = str(yamux.YAMUX)
        self.opened_at = int(time.time() * 1000)
        self.opened = trio.current_time()
        self.handshake = 0.0  # seconds from the first byte until it was up
        self.reason: str | None = None
        self.gone = trio.Event()
        self.set_transport_info(pipe.get_transport_addresses(), pipe.get_connection_type())

    @property
    def key_type(self) -> str:
        """Of the peer's key, in go-libp2p's spelling: Ed25519, RSA, Secp256k1, ECDSA."""
        key = getattr(self.muxed_conn.secured_conn, "remote_permanent_pubkey", None)
        return str(key.get_type().name) if key is not None else "unknown"

    @property
    def duration(self) -> int:
        """Milliseconds since it came up, by a clock that does not jump."""
        return int((trio.current_time() - self.opened) * 1000)

    @property
    def latency(self) -> float | None:
        """Smoothed round trip in milliseconds, once yamux has measured one."""
        rtt = self.muxed_conn.rtt()
        return rtt * 1000 if rtt > 0 else None

    def end(self, reason: str) -> None:
        """Begin to end the connection; the first reason counts. Its owner does the rest."""
        if self.reason is None:
            self.reason = reason
        self.event_closed.set()

    async def close(self) -> None:
        """End the connection and wait until it is gone."""
        self.end("closed")
        await self.gone.wait()

    async def _on_muxed_conn_closed(self) -> None:
        self.end(self.pipe.ended or "closed_by_peer")

    async def _add_stream(self, muxed_stream: Any) -> NetStream:
        stream = NetStream(muxed_stream, self, None)
        # Nothing is awaited where it holds its lock, and taking a lock of trio's costs a turn of the loop: here one for
        # each read of a byte.
        stream._state_lock = nullcontext()  # type: ignore[assignment]
        stream._state = StreamState.OPEN
        self.streams.add(stream)
        await self.swarm.notify_opened_stream(stream)
        return stream

    def serve_streams(self, nursery: trio.Nursery) -> None:
        """Hand each stream that the peer opens to its handler, in ``nursery``."""
        self.muxed_conn.serve(lambda stream: nursery.start_soon(self._serve_stream, stream))

    async def _serve_stream(self, muxed_stream: Any) -> None:
        """One stream, fenced: whatever a peer makes a handler raise ends that stream and nothing else (trap 2)."""
        stream = await self._add_stream(muxed_stream)
        try:
            await self._owner.common_stream_handler(stream)
        except (IOException, trio.TooSlowError) as error:  # the peer ended it early, fell silent, or sent nonsense
            self._owner.stream_errors += 1
            log.debug("stream failed", peer=self.peer_id, protocol=str(stream.get_protocol()), error=repr(error))
            await _reset(stream)
        except Exception as error:  # noqa: BLE001 - a hostile peer chooses what is raised here
            self._owner.stream_errors += 1
            protocol = stream.get_protocol()
            if protocol is None:  # multistream-select, where a name that is no UTF-8 raises what decoding it does
                log.debug("stream failed", peer=self.peer_id, error=repr(error))
            else:
                handler_failed.warning(
                    "a stream handler failed", peer=self.peer_id, protocol=protocol, error=repr(error)
                )
            await _reset(stream)
        finally:
            self.remove_stream(stream)


def muxed(stream: INetStream) -> yamux.Stream:
    """The stream of ours below libp2p's."""
    return cast(yamux.Stream, cast(NetStream, stream).muxed_stream)


async def _reset(stream: NetStream) -> None:
    with trio.move_on_after(GOODBYE):
        try:
            await stream.reset()
        except Exception as error:  # noqa: BLE001 - the connection below it may be in any state
            log.debug("stream could not be reset", error=repr(error))
