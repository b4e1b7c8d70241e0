"""Events of the node, its peers and its dials, and how events are asked for."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from fabstir_client.api.base import AnyEvent, Direction, EndReason, EventData, Record, words


class NodeStarted(EventData, frozen=True):
    """The node listens. Not told again by a repeated start."""

    TYPE = "p2p:started"
    peer_id: str
    listen_addresses: list[str]


class NodeStopped(EventData, frozen=True):
    """The node has stopped; no event of a peer or a connection follows."""

    TYPE = "p2p:stopped"
    peer_id: str


class PeerConnected(EventData, frozen=True):
    """A peer's first connection is up; once, however many connections follow."""

    TYPE = "peer:connect"
    peer_id: str
    address: str
    direction: Direction


class PeerDisconnected(EventData, frozen=True):
    """A peer's last connection is gone."""

    TYPE = "peer:disconnect"
    peer_id: str
    reason: EndReason  # of its last connection
    duration: int  # ms since it was connected


class PeerIdentified(EventData, frozen=True):
    """The peer has said what it is: the identify protocol has finished."""

    TYPE = "peer:identify"
    peer_id: str
    agent_version: str
    protocol_version: str
    protocols: list[str]
    addresses: list[str]


class PeerPath(EventData, frozen=True):
    """A peer that was reached through a relay has become direct: new streams take the direct connection, and the
    relayed one closes once nothing is left on it."""

    TYPE = "peer:path"
    peer_id: str
    source: str = msgspec.field(name="from")  # the address through the relay
    to: str  # the direct address
    took: int  # ms since the relayed connection was up


MappingMethod = Annotated[str, words("pcp", "nat-pmp", "upnp")]


class NatMapped(EventData, frozen=True):
    """The router forwards one of its addresses to this node (port mapping). Not repeated when the lease
    is renewed."""

    TYPE = "nat:mapped"
    address: str  # outside, with /p2p/
    protocol: Annotated[str, words("tcp", "udp")]  # that is mapped
    method: MappingMethod  # how the router was asked
    expires: int | None = None  # instant; renewed long before. Absent where the router knows no end


class NatUnmapped(EventData, frozen=True):
    """A port mapping is gone: removed as the node stops, not renewed by the router, or left behind in another
    network."""

    TYPE = "nat:unmapped"
    address: str  # that was mapped
    protocol: Annotated[str, words("tcp", "udp")]  # that is mapped
    method: MappingMethod  # how the router was asked
    expires: int | None = None  # instant at which the router forgets it, if it has not yet


class ConnectionRetry(EventData, frozen=True):
    """A dial of a bootstrap node failed, and another follows."""

    TYPE = "connection:retry"
    address: str
    attempt: int  # which re-dial follows: 1 to maxRetries
    max_retries: int  # [node] max_retries
    delay: int  # ms until then: retryDelay * 2 ** (attempt - 1)
    error: str


class ConnectionFailed(EventData, frozen=True):
    """The last dial of a bootstrap node failed too; the next cycle begins after [node] keepalive_interval."""

    TYPE = "connection:failed"
    address: str
    attempts: int  # dials: 1 + maxRetries
    reason: Annotated[str, words("Max retries exceeded")]
    error: str  # of the last dial, in words


class ConnectionCancelled(EventData, frozen=True):
    """A stop cut off the dials of a bootstrap node; once an address, before p2p:stopped."""

    TYPE = "connection:cancelled"
    address: str
    attempts: int  # dials begun


class BootstrapError(EventData, frozen=True):
    """The first failed dial of a bootstrap node's cycle."""

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
    """One entry of the event log. ``data`` is the struct of its type; a dict where this client does not know it."""

    epoch: str
    seq: int
    time: int
    type: str
    data: Any  # the struct of its type


class Lagged(Record, frozen=True):
    """Stands where entries are missing from a stream. ``missed`` is None where the daemon was restarted in between."""

    missed: int | None
    resume: int  # seq of the entry that comes next


class EventsResult(Record, frozen=True):
    """Answer of the ``events`` method. ``missed`` is null where ``epoch`` was another run's."""

    epoch: str
    head: int  # number of the newest event; ask on from the last of ``events``, or from here where there is none
    events: list[AnyEvent]  # oldest first
    missed: int | None  # entries that are gone, and stand where ``events`` begins
