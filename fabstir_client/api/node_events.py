"""Events of the node, its peers and its dials, and the results of methods that return events."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from fabstir_client.api.base import AnyEvent, Direction, EndReason, EventData, Record, words


class NodeStarted(EventData, frozen=True):
    """The node listens. Not repeated by a ``start`` while it is started."""

    TYPE = "p2p:started"
    peer_id: str
    listen_addresses: list[str]


class NodeStopped(EventData, frozen=True):
    """The node has stopped; no event of a peer or a connection follows."""

    TYPE = "p2p:stopped"
    peer_id: str


class PeerConnected(EventData, frozen=True):
    """A peer's first connection is up. Further connections to the same peer publish no event."""

    TYPE = "peer:connect"
    peer_id: str
    address: str
    direction: Direction


class PeerDisconnected(EventData, frozen=True):
    """A peer's last connection has ended."""

    TYPE = "peer:disconnect"
    peer_id: str
    reason: EndReason  # of its last connection
    duration: int  # ms since it was connected


class PeerIdentified(EventData, frozen=True):
    """The identify protocol has finished: the peer has described itself. Published again when the description
    changes."""

    TYPE = "peer:identify"
    peer_id: str
    agent_version: str
    protocol_version: str
    protocols: list[str]
    addresses: list[str]


class PeerPath(EventData, frozen=True):
    """A peer that was reached through a relay now has a direct connection. New streams use that, and the relayed
    connection closes once it has no streams left."""

    TYPE = "peer:path"
    peer_id: str
    source: str = msgspec.field(name="from")  # the address through the relay
    to: str  # the direct address
    took: int  # ms since the relayed connection came up


MappingMethod = Annotated[str, words("pcp", "nat-pmp", "upnp")]


class NatMapped(EventData, frozen=True):
    """The router forwards one of its addresses to this node (port mapping). Not repeated when the lease
    is renewed."""

    TYPE = "nat:mapped"
    address: str  # the external address, with /p2p/
    protocol: Annotated[str, words("tcp", "udp")]  # the mapped protocol
    method: MappingMethod  # how the router was asked
    expires: int | None = None  # when the lease ends; it is renewed well before. Left out if the router sets no end


class NatUnmapped(EventData, frozen=True):
    """A port mapping has ended: removed because the node stops, not renewed by the router, or left behind in another
    network."""

    TYPE = "nat:unmapped"
    address: str  # the external address
    protocol: Annotated[str, words("tcp", "udp")]  # the mapped protocol
    method: MappingMethod  # how the router was asked
    expires: int | None = None  # when the router will forget it, unless it already has


class ConnectionRetry(EventData, frozen=True):
    """A dial of a bootstrap node failed, and will be retried."""

    TYPE = "connection:retry"
    address: str
    attempt: int  # number of the next retry, 1 to maxRetries
    max_retries: int  # [node] max_retries
    delay: int  # ms until the retry: retryDelay * 2 ** (attempt - 1)
    error: str


class ConnectionFailed(EventData, frozen=True):
    """The last dial of a bootstrap node's cycle failed too. The next cycle begins after [node] keepalive_interval."""

    TYPE = "connection:failed"
    address: str
    attempts: int  # number of dials: 1 + maxRetries
    reason: Annotated[str, words("Max retries exceeded")]
    error: str  # of the last dial, in words


class ConnectionCancelled(EventData, frozen=True):
    """A stop has cancelled the dials of a bootstrap node. Published once for each address, before p2p:stopped."""

    TYPE = "connection:cancelled"
    address: str
    attempts: int  # number of dials begun


class BootstrapError(EventData, frozen=True):
    """The first dial of a bootstrap node's cycle failed."""

    TYPE = "error"
    type: Annotated[str, words("BOOTSTRAP_CONNECTION_FAILED")]
    address: str
    message: str


EVENT_DATA: dict[str, type[EventData]] = {
    kind.TYPE: kind
    for kind in (
        NodeStarted,
        NodeStopped,
        PeerConnected,
        PeerDisconnected,
        PeerIdentified,
        PeerPath,
        NatMapped,
        NatUnmapped,
        ConnectionRetry,
        ConnectionFailed,
        ConnectionCancelled,
        BootstrapError,
    )
}


class Event(Record, frozen=True):
    """An entry of the event log. ``data`` is the struct of its type; a dict if this client does not know the type."""

    epoch: str
    seq: int
    time: int
    type: str
    data: Any  # the struct of its type


class Lagged(Record, frozen=True):
    """Takes the place of events that are missing. ``missed`` is None if the daemon was restarted in between."""

    missed: int | None
    resume: int  # seq of the next entry


class EventsResult(Record, frozen=True):
    """The result of ``events``. ``missed`` is null if the given ``epoch`` is of another run of the daemon."""

    epoch: str
    head: int  # number of the newest event; pass the last of ``events`` as the next ``after``, or this if it is empty
    events: list[AnyEvent]  # oldest first
    missed: int | None  # number of dropped events between ``after`` and the first of ``events``
