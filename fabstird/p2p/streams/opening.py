"""Opens streams to peers on users' protocols."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import trio

from fabstir_client.api.errors import (
    DeadlineExceeded,
    FabstirError,
    InvalidParams,
    StreamFailed,
)
from fabstir_client.api.streams import StreamReason
from fabstird.p2p.host.host import Host
from fabstird.p2p.host.opening import (
    ConnectionGone,
    ProtocolUnsupported,
    StreamBusy,
    StreamError,
    StreamReset,
    StreamTimeout,
    open_stream,
)
from fabstird.p2p.net.link import Link
from fabstird.p2p.peers.commands import Commands
from fabstird.p2p.streams.ledger import Ledger, Stream
from fabstird.p2p.streams.peer_stream import PeerStream
from fabstird.p2p.streams.protocol_names import checked_protocol

MAX_CHOICES = 16  # protocols in order of preference
REASONS: tuple[tuple[type[StreamError], StreamReason], ...] = (
    (ProtocolUnsupported, "unsupported"),
    (StreamBusy, "busy"),
    (StreamReset, "reset"),
    (StreamTimeout, "timeout"),
    (ConnectionGone, "gone"),
    (StreamError, "refused"),
)


async def open_to(
    host: Host,
    commands: Commands,
    ledger: Ledger,
    peer: str,
    protocols: Sequence[str],
    timeout: int,
    identity: Hashable,
) -> Stream:
    """Open a stream to a peer, on the first of ``protocols`` that the peer supports.

    A peer that is not connected is dialled, if an address of it is known. ``timeout`` (ms) covers the dial and the
    negotiation. ``identity`` is who opens it, and who may then use it. The caller must join or drop the stream.

    Raises `InvalidParams`, `LimitExceeded`, `PeerNotFound`, `DialFailed`, `DeadlineExceeded`, `StreamFailed`.
    """
    if not 0 < len(protocols) <= MAX_CHOICES:
        raise InvalidParams(f"protocol: 1 to {MAX_CHOICES} may be given, not {len(protocols)}", param="protocol")
    for protocol in protocols:
        checked_protocol(protocol)
    peer_id = commands.peer_id(peer)
    ledger.reserve(peer_id, identity)
    try:
        with trio.fail_after(timeout / 1000):
            if not host.links(peer_id):
                await commands.connect(peer_id, timeout, param="peerId")
            link = _best(host.links(peer_id), peer_id)
            opened = await open_stream(link, protocols)
    except BaseException as error:
        ledger.give_back(peer_id, identity)
        if isinstance(error, trio.TooSlowError):
            words = f"no stream to {peer_id} on {', '.join(protocols)} within {timeout} ms"
            raise DeadlineExceeded(words, peerId=peer_id, timeout=timeout) from error
        if isinstance(error, StreamError):
            raise stream_failed(error, peer_id, protocols) from error
        raise
    stream = Stream(PeerStream(opened, "outbound"), opened.protocol or "", identity, ledger, identity)
    ledger.enter(stream)
    return stream


def _best(links: list[Link], peer_id: str) -> Link:
    """The newest direct link, else the newest relayed one. Raises `StreamError` if there is none."""
    if not links:
        raise ConnectionGone(f"the connection to {peer_id} is gone")
    return next((link for link in reversed(links) if not link.relayed), links[-1])


def stream_failed(error: StreamError, peer_id: str, protocols: Sequence[str]) -> FabstirError:
    """The API error for a stream that could not be opened."""
    reason = next(reason for kind, reason in REASONS if isinstance(error, kind))
    failed = StreamFailed(str(error), peerId=peer_id, protocol=", ".join(protocols), reason=reason)
    failed.retryable = reason in ("busy", "gone", "timeout")
    return failed
