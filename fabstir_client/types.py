"""The vocabulary of the API: parameters, results and events, as msgspec structs.

The daemon imports this module to build its answers and the client to read them, so the two cannot drift apart.
On the wire every name is camelCase, instants are integer milliseconds since the Unix epoch, durations are integer
milliseconds, peer ids are base58btc text and addresses are multiaddr text (CONTRACT, head).

A field that may be missing has the default ``None`` and is left out of the JSON while it is ``None``.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

Direction = Literal["inbound", "outbound"]
NodeState = Literal["stopped", "starting", "started", "stopping", "failed"]


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A result or the data of an event.

    Fields are attributes (``status.peer_id``); for code that comes from JSON they are also items under the name on
    the wire (``status["peerId"]``).
    """

    def __getitem__(self, name: str) -> Any:
        for field in msgspec.structs.fields(type(self)):
            if name in (field.encode_name, field.name):
                value = getattr(self, field.name)
                if value is None and field.default is None:
                    break
                return value
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The field under its wire name or its Python name, or ``default`` where it is missing."""
        try:
            return self[name]
        except KeyError:
            return default

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands on the wire: camelCase keys, plain values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


# --------------------------------------------------------------------------------------------------------------------
# Parameters


class Params(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """Parameters of a method; the order of the fields is the order of positional parameters."""


class NodeOverrides(Params):
    """What ``start(config)`` may override for one run: keys of ``[node]``, in camelCase."""

    bootstrap_nodes: list[str] | None = None
    listen_addresses: list[str] | None = None
    enable_dht: bool | None = msgspec.field(default=None, name="enableDHT")
    enable_mdns: bool | None = msgspec.field(default=None, name="enableMDNS")
    dial_timeout: int | None = None
    request_timeout: int | None = None
    max_retries: int | None = None
    retry_delay: int | None = None


class NoParams(Params):
    """For methods that take none."""


class StartParams(Params):
    config: NodeOverrides | None = None


class ConnectParams(Params):
    address: str
    timeout: int | None = None


class DisconnectParams(Params):
    peer_id: str


class PingParams(Params):
    peer_id: str
    timeout: int | None = None


class SubscribeParams(Params):
    types: list[str] | None = None
    after: int | None = None
    epoch: str | None = None


class UnsubscribeParams(Params):
    subscription: str


class EventsParams(Params):
    after: int | None = None
    epoch: str | None = None
    types: list[str] | None = None
    limit: int | None = None
    timeout: int | None = None


# --------------------------------------------------------------------------------------------------------------------
# Results


class Status(Record):
    state: NodeState
    connected: bool  # the node is started, peers or not
    peer_id: str
    connections: int
    peers: int
    bootstrap_nodes: list[str]
    listen_addresses: list[str]
    version: str
    epoch: str  # names the daemon run; event numbers are only comparable within one
    head: int  # seq of the newest event
    start_time: int | None = None  # instant, while started
    uptime: int | None = None  # ms since start_time, by a clock that does not jump
    error: str | None = None  # why the state is "failed"


class Connection(Record):
    address: str
    direction: Direction
    opened_at: int
    transport: str  # "tcp" or "ws"
    security: str  # e.g. "/noise"
    muxer: str  # e.g. "/yamux/1.0.0"
    streams: int


class Peer(Record):
    peer_id: str
    direction: Direction  # of its oldest connection
    connected_at: int
    addresses: list[str]  # known ones, identify's included, with /p2p/
    connections: list[Connection]
    protocols: list[str]
    tags: dict[str, int]
    protected: bool
    bootstrap: bool
    agent_version: str | None = None  # known once identify has finished
    protocol_version: str | None = None
    latency: float | None = None  # ms, smoothed round trip, once measured


class Addresses(Record):
    peer_id: str
    listen: list[str]  # real interface addresses and ports
    announced: list[str]  # what identify tells other peers
    observed: list[str]  # what connected peers say they see us as


class Metrics(Record):
    connected: bool
    peer_id: str
    connections: int
    total_peers: int
    connected_peers: list[str]
    listen_addresses: list[str]
    bootstrap_nodes: list[str]
    failed_connections: int  # dials that failed, since the daemon started
    successful_connections: int  # connections that came up
    inbound_connections: int
    outbound_connections: int
    retries: int  # re-dials of bootstrap nodes begun
    handshakes_failed: int  # inbound connections that did not get through Noise and Yamux
    refused_connections: int  # inbound connections turned away by a limit
    stream_errors: int  # stream handlers that raised, e.g. at garbage from a peer
    events_published: int
    bytes_received: int
    bytes_sent: int
    start_time: int | None = None
    uptime: int | None = None


class ConnectResult(Record):
    peer_id: str
    address: str
    direction: Direction
    already_connected: bool


class DisconnectResult(Record):
    peer_id: str
    closed: int  # connections closed


class PingResult(Record):
    peer_id: str
    rtt: float  # ms


class SubscribeResult(Record):
    """Status and peers as they were at entry ``head`` of the event log: nothing lies between them and the stream."""

    subscription: str
    epoch: str
    head: int
    status: Status
    peers: list[Peer]


class UnsubscribeResult(Record):
    subscription: str


class VersionResult(Record):
    version: str
    python: str
    libp2p: str
    protocols: list[str]


# --------------------------------------------------------------------------------------------------------------------
# Events


class EventData(Record):
    """Data of one type of event; ``TYPE`` is the type's name on the wire."""

    TYPE: ClassVar[str]


class NodeStarted(EventData):
    TYPE = "p2p:started"
    peer_id: str
    listen_addresses: list[str]


class NodeStopped(EventData):
    TYPE = "p2p:stopped"
    peer_id: str


class PeerConnected(EventData):
    TYPE = "peer:connect"
    peer_id: str
    address: str
    direction: Direction


class PeerDisconnected(EventData):
    TYPE = "peer:disconnect"
    peer_id: str
    reason: str  # closed_by_peer, closed, reset, timeout, stopped, error
    duration: int


class PeerIdentified(EventData):
    TYPE = "peer:identify"
    peer_id: str
    agent_version: str
    protocol_version: str
    protocols: list[str]
    addresses: list[str]


class ConnectionRetry(EventData):
    TYPE = "connection:retry"
    address: str
    attempt: int
    max_retries: int
    delay: int
    error: str


class ConnectionFailed(EventData):
    TYPE = "connection:failed"
    address: str
    attempts: int
    reason: str
    error: str


class ConnectionCancelled(EventData):
    TYPE = "connection:cancelled"
    address: str
    attempts: int


class BootstrapError(EventData):
    TYPE = "error"
    type: str
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
        ConnectionRetry,
        ConnectionFailed,
        ConnectionCancelled,
        BootstrapError,
    )
}


class Event(Record):
    """One entry of the event log. ``data`` is the struct of its type, or a dict for a type this client is too old for."""

    epoch: str
    seq: int
    time: int
    type: str
    data: Any


class Lagged(Record):
    """Stands where entries are missing from a stream. ``missed`` is None where the daemon was restarted in between."""

    missed: int | None
    resume: int  # seq of the entry that comes next


class EventsResult(Record):
    """Answer of the ``events`` method. ``missed`` is None where ``epoch`` was another run's."""

    epoch: str
    head: int
    events: list[dict[str, Any]]
    missed: int | None
