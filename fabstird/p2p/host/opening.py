"""Opens streams to peers: negotiation of a protocol, and why a stream could not be opened."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from fabstird.p2p.muxer.frame import GATED, RATE_LIMITED, RESOURCE_LIMIT_EXCEEDED
from fabstird.p2p.net.link import Link, cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.wire import multistream
from fabstird.p2p.wire.errors import NetworkError
from fabstird.p2p.wire.multistream import NegotiationError, ProtocolNotSupported

NEGOTIATION = 10.0  # seconds to negotiate a stream's protocol


class StreamError(Exception):
    """A stream to a peer could not be opened or used; the message says why."""


class ProtocolUnsupported(StreamError):
    """The peer does not speak the protocol."""


class StreamTimeout(StreamError):
    """The peer did not agree in time."""


class StreamReset(StreamError):
    """The peer has reset the stream."""


class StreamBusy(StreamReset):
    """The peer has reset the stream because it has too many; or this node has no memory for more bytes from peers."""


class StreamRefused(StreamError):
    """The peer does not let us use the protocol."""


class ConnectionGone(StreamError):
    """The connection to the peer has ended, and the stream with it."""


async def open_stream(link: Link, protocols: Sequence[str]) -> Stream:
    """Open a stream on the first of the protocols that the peer supports. The caller must end and release it.
    Cancelled, it leaves nothing behind.

    Raises `StreamError`, or the subclass that fits.
    """
    stream = None
    try:
        stream = link.open_stream()
        with trio.fail_after(NEGOTIATION):
            protocol, rest = await multistream.choose(stream.read, stream.write, protocols)
        stream.agree(protocol, rest)
    except BaseException as error:
        if stream is not None:
            await cut(stream)
            stream.release()
        if isinstance(error, Exception):
            if not isinstance(error, NetworkError | trio.TooSlowError):
                link.fence.note("stream", error, peer=link.peer_id, protocols=list(protocols))
            raise _not_opened(error, link.peer_id, protocols, stream) from error
        raise
    return stream


def _not_opened(error: Exception, peer_id: str, protocols: Sequence[str], stream: Stream | None) -> StreamError:
    names = " or ".join(protocols)
    if isinstance(error, ProtocolNotSupported):
        return ProtocolUnsupported(f"{peer_id} does not speak {names}")
    if isinstance(error, trio.TooSlowError):
        return StreamTimeout(f"{peer_id} did not agree on {names} within {NEGOTIATION:g} s")
    if isinstance(error, NegotiationError):
        return StreamError(f"{peer_id} did not agree on {names}: {error}")
    early = ended_early(stream, peer_id)
    return early or StreamError(f"the stream to {peer_id} failed: {str(error) or type(error).__name__}")


def ended_early(stream: Stream | None, peer_id: str) -> StreamError | None:
    """The error for a stream that was cut; None where it was not."""
    if stream is None or stream.lost:
        return ConnectionGone(f"the connection to {peer_id} is gone")
    if stream.no_room:
        return StreamBusy("too much waits here already that peers have sent and no program has read")
    if stream.reset_code is None:
        return None
    if stream.reset_code in (RESOURCE_LIMIT_EXCEEDED, RATE_LIMITED):
        return StreamBusy(f"{peer_id} has too many streams to take another now")
    if stream.reset_code == GATED:
        return StreamRefused(f"{peer_id} does not let this node use the protocol")
    code = f" (error code {stream.reset_code:#x})" if stream.reset_code else ""
    return StreamReset(f"{peer_id} has reset the stream{code}")
