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


class NodeOverrides(Params, frozen=True):
    """What ``start(config)`` may override for one run: keys of ``[node]``, in camelCase."""

    bootstrap_nodes: list[str] | None = None
    listen_addresses: list[str] | None = None
    enable_dht: bool | None = msgspec.field(default=None, name="enableDHT")
    enable_mdns: bool | None = msgspec.field(default=None, name="enableMDNS")
    dial_timeout: int | None = None
    request_timeout: int | None = None
    max_retries: int | None = None
    retry_delay: int | None = None


class NoParams(Params, frozen=True):
    """For methods that take none."""


class StartParams(Params, frozen=True):
    config: dict[str, Any] | None = None  # the keys of NodeOverrides; the daemon checks them as it checks its file


class ConnectParams(Params, frozen=True):
    address: str
    timeout: int | None = None


class DisconnectParams(Params, frozen=True):
    peer_id: str


class PingParams(Params, frozen=True):
    peer_id: str
    timeout: int | None = None


class SubscribeParams(Params, frozen=True):
    types: list[str] | None = None
    after: int | None = None
    epoch: str | None = None


class UnsubscribeParams(Params, frozen=True):
    subscription: str


class EventsParams(Params, frozen=True):
    after: int | None = None
    epoch: str | None = None
    types: list[str] | None = None
    limit: int | None = None
    timeout: int | None = None


class TagParams(Params, frozen=True):
    peer_id: str
    tag: str
    value: int


class UntagParams(Params, frozen=True):
    peer_id: str
    tag: str


class PeerParams(Params, frozen=True):
    peer_id: str


class BanParams(Params, frozen=True):
    """Whom: ``target``, or by the name of what it is, ``peerId``, ``ip`` or ``cidr``; exactly one of them."""

    target: str | None = None
    duration: int | None = None  # ms; for good where it is left out
    reason: str | None = None
    peer_id: str | None = None
    ip: str | None = None
    cidr: str | None = None


class UnbanParams(Params, frozen=True):
    target: str | None = None
    peer_id: str | None = None
    ip: str | None = None
    cidr: str | None = None


class KeepParams(Params, frozen=True):
    address: str


class TargetParams(Params, frozen=True):
    """``target``, or by the name of what it is, ``peerId`` or ``address``; exactly one of them."""

    target: str | None = None
    peer_id: str | None = None
    address: str | None = None


# --------------------------------------------------------------------------------------------------------------------
# Results


class Status(Record, frozen=True):
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


class Connection(Record, frozen=True):
    address: str
    direction: Direction
    opened_at: int
    transport: str  # "tcp" or "ws"
    security: str  # e.g. "/noise"
    muxer: str  # e.g. "/yamux/1.0.0"
    streams: int


class Peer(Record, frozen=True):
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


class Addresses(Record, frozen=True):
    peer_id: str
    listen: list[str]  # real interface addresses and ports
    announced: list[str]  # what identify tells other peers
    observed: list[str]  # what connected peers say they see us as


class Bound(Record, frozen=True):
    """How much there is of something that is bounded, and the bound."""

    current: int
    limit: int


class Metrics(Record, frozen=True):
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
    bounds: dict[str, Bound]  # everything that is bounded in number
    start_time: int | None = None
    uptime: int | None = None


class ConnectResult(Record, frozen=True):
    peer_id: str
    address: str
    direction: Direction
    already_connected: bool


class DisconnectResult(Record, frozen=True):
    peer_id: str
    closed: int  # connections closed


class PingResult(Record, frozen=True):
    peer_id: str
    rtt: float  # ms


class PeerTags(Record, frozen=True):
    peer_id: str
    tags: dict[str, int]
    protected: bool


class BanRecord(Record, frozen=True):
    target: str  # a peer id, or a network in CIDR notation
    since: int
    until: int | None = None  # for good where it is missing
    reason: str | None = None


class BanResult(Record, frozen=True):
    ban: BanRecord
    closed: int  # connections that it ended


class UnbanResult(Record, frozen=True):
    target: str
    unbanned: bool  # false where there was no such ban


class KeepResult(Record, frozen=True):
    peer_id: str
    address: str
    kept: bool


class ForgetResult(Record, frozen=True):
    addresses: list[str]  # that were kept and are no more


class TimelineEntry(Record, frozen=True):
    time: int
    what: str  # one word for the kind: dial_failed, connected, disconnected, banned …
    address: str | None = None
    detail: str | None = None


class KnownAddress(Record, frozen=True):
    address: str
    source: str  # bootstrap, kept, or known: told by the peer itself, or dialled before
    state: str | None = None  # of its dial cycle: due, dialling, waiting, resting, connected
    attempts: int | None = None  # dials begun in this cycle
    next_dial: int | None = None  # instant
    last_error: str | None = None


class Explanation(Record, frozen=True):
    """Everything that is known of a peer, or of an address that names none; ``summary`` says it in one sentence."""

    summary: str
    connected: bool
    connections: list[Connection]
    addresses: list[KnownAddress]
    tags: dict[str, int]
    protected: bool
    bootstrap: bool
    kept: bool
    timeline: list[TimelineEntry]  # oldest first
    peer_id: str | None = None
    ban: BanRecord | None = None


class SubscribeResult(Record, frozen=True):
    """Status and peers as they were at entry ``head`` of the event log: nothing lies between them and the stream."""

    subscription: str
    epoch: str
    head: int
    status: Status
    peers: list[Peer]


class UnsubscribeResult(Record, frozen=True):
    subscription: str


class VersionResult(Record, frozen=True):
    version: str
    python: str
    libp2p: str
    protocols: list[str]


# --------------------------------------------------------------------------------------------------------------------
# Events


class EventData(Record, frozen=True):
    """Data of one type of event; ``TYPE`` is the type's name on the wire."""

    TYPE: ClassVar[str]


class NodeStarted(EventData, frozen=True):
    TYPE = "p2p:started"
    peer_id: str
    listen_addresses: list[str]


class NodeStopped(EventData, frozen=True):
    TYPE = "p2p:stopped"
    peer_id: str


class PeerConnected(EventData, frozen=True):
    TYPE = "peer:connect"
    peer_id: str
    address: str
    direction: Direction


class PeerDisconnected(EventData, frozen=True):
    TYPE = "peer:disconnect"
    peer_id: str
    reason: str  # closed_by_peer closed reset timeout dead trimmed banned limit stopped shutdown error
    duration: int


class PeerIdentified(EventData, frozen=True):
    TYPE = "peer:identify"
    peer_id: str
    agent_version: str
    protocol_version: str
    protocols: list[str]
    addresses: list[str]


class ConnectionRetry(EventData, frozen=True):
    TYPE = "connection:retry"
    address: str
    attempt: int
    max_retries: int
    delay: int
    error: str


class ConnectionFailed(EventData, frozen=True):
    TYPE = "connection:failed"
    address: str
    attempts: int
    reason: str
    error: str


class ConnectionCancelled(EventData, frozen=True):
    TYPE = "connection:cancelled"
    address: str
    attempts: int


class BootstrapError(EventData, frozen=True):
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


class Event(Record, frozen=True):
    """One entry of the event log. ``data`` is the struct of its type; a dict where this client does not know it."""

    epoch: str
    seq: int
    time: int
    type: str
    data: Any


class Lagged(Record, frozen=True):
    """Stands where entries are missing from a stream. ``missed`` is None where the daemon was restarted in between."""

    missed: int | None
    resume: int  # seq of the entry that comes next


class EventsResult(Record, frozen=True):
    """Answer of the ``events`` method. ``missed`` is None where ``epoch`` was another run's."""

    epoch: str
    head: int
    events: list[dict[str, Any]]
    missed: int | None
