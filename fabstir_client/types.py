"""The vocabulary of the API: parameters, results and events, as msgspec structs.

The daemon imports this module to build its answers and the client to read them, so the two cannot drift apart.
On the wire every name is camelCase, instants are integer milliseconds since the Unix epoch, durations are integer
milliseconds, peer ids are base58btc text and addresses are multiaddr text (CONTRACT, head).

A field that may be missing has the default ``None`` and is left out of the JSON while it is ``None``.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

Direction = Literal["inbound", "outbound"]
NodeState = Literal["stopped", "starting", "started", "stopping", "failed"]
# Plain values whose schema says more than their type: the whole of them stands in the OpenRPC document
EventType = Annotated[str, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/EventType"})]
AnyEvent = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Event"})]
Overrides = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/NodeOverrides"})]


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

    bootstrap_nodes: list[str] | None = None  # multiaddrs with /p2p/<peer id>
    listen_addresses: list[str] | None = None  # multiaddrs; port 0 takes a free one
    enable_dht: bool | None = msgspec.field(default=None, name="enableDHT")  # [node] enable_dht
    enable_mdns: bool | None = msgspec.field(default=None, name="enableMDNS")  # [node] enable_mdns
    dial_timeout: int | None = None  # ms, applied to every dial
    request_timeout: int | None = None  # ms, for every call without a timeout of its own
    max_retries: int | None = None  # re-dials after the first failed dial of a bootstrap node
    retry_delay: int | None = None  # ms before the first re-dial; doubles each time


class NoParams(Params, frozen=True):
    """For methods that take none."""


class StartParams(Params, frozen=True):
    config: Overrides | None = None  # for this run only; checked as the configuration file is


class ConnectParams(Params, frozen=True):
    address: str  # a multiaddr with /p2p/<peer id>, or a peer id whose addresses are known
    timeout: int | None = None


class DisconnectParams(Params, frozen=True):
    peer_id: str


class PingParams(Params, frozen=True):
    peer_id: str
    timeout: int | None = None


class SubscribeParams(Params, frozen=True):
    types: list[EventType] | None = None  # only events of these types; all where it is left out
    after: int | None = None  # begin after the event of this number; after the newest where it is left out
    epoch: str | None = None  # the run that ``after`` is of; the current one where it is left out


class UnsubscribeParams(Params, frozen=True):
    subscription: str


class EventsParams(Params, frozen=True):
    after: int | None = None  # only events after this number; all that are kept where it is left out
    epoch: str | None = None  # the run that ``after`` is of; the current one where it is left out
    types: list[EventType] | None = None  # only events of these types; all where it is left out
    limit: int | None = None  # events in the answer, 1 to 1000
    timeout: int | None = None  # ms to wait for an event where there is none yet, 0 to 60000; 0 where it is left out


class TagParams(Params, frozen=True):
    peer_id: str
    tag: str
    value: int  # the higher the sum over a peer's tags, the longer trimming spares it


class UntagParams(Params, frozen=True):
    peer_id: str
    tag: str


class PeerParams(Params, frozen=True):
    peer_id: str


class BanParams(Params, frozen=True):
    """Whom: ``target``, or by the name of what it is, ``peerId``, ``ip`` or ``cidr``; exactly one of them."""

    target: str | None = None  # a peer id, an IP address or a network in CIDR notation
    duration: int | None = None  # ms; for good where it is left out
    reason: str | None = None  # for people
    peer_id: str | None = None
    ip: str | None = None
    cidr: str | None = None


class UnbanParams(Params, frozen=True):
    target: str | None = None  # a peer id, an IP address or a network in CIDR notation
    peer_id: str | None = None
    ip: str | None = None
    cidr: str | None = None


class KeepParams(Params, frozen=True):
    address: str  # a multiaddr with /p2p/<peer id>


class TargetParams(Params, frozen=True):
    """``target``, or by the name of what it is, ``peerId`` or ``address``; exactly one of them."""

    target: str | None = None  # a peer id or a multiaddr
    peer_id: str | None = None
    address: str | None = None


# --------------------------------------------------------------------------------------------------------------------
# Results


class Empty(Record, frozen=True):
    """Nothing but that it was done."""


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
    address: str  # of the other end
    direction: Direction
    opened_at: int  # instant
    transport: str  # "tcp" or "ws"
    security: str  # e.g. "/noise"
    muxer: str  # e.g. "/yamux/1.0.0"
    streams: int


class Peer(Record, frozen=True):
    peer_id: str
    direction: Direction  # of its oldest connection
    connected_at: int  # instant
    addresses: list[str]  # known ones, identify's included, with /p2p/
    connections: list[Connection]  # oldest first
    protocols: list[str]  # protocol ids that it answers, as identify told
    tags: dict[str, int]
    protected: bool
    bootstrap: bool
    agent_version: str | None = None  # known once identify has finished
    protocol_version: str | None = None
    latency: float | None = None  # ms, smoothed round trip, once measured


class AddressReachability(Record, frozen=True):
    address: str
    # "reachable": several servers have dialled it lately; "relayed": it leads through a relay that lets peers in;
    # "unknown": neither, which is all that can be said of an address in a private network
    state: Literal["reachable", "relayed", "unknown"]
    checked_at: int | None = None  # when a server last tried to dial it


class Addresses(Record, frozen=True):
    peer_id: str
    listen: list[str]  # real interface addresses and ports
    announced: list[str]  # what identify tells other peers
    observed: list[str]  # what connected peers say they see us as
    reachability: list[AddressReachability]  # of what is listened on or told


class Bound(Record, frozen=True):
    """How much there is of something that is bounded, and the bound."""

    current: int  # how much there is
    limit: int


class Metrics(Record, frozen=True):
    connected: bool
    peer_id: str
    connections: int
    total_peers: int  # connected peers
    connected_peers: list[str]
    listen_addresses: list[str]
    bootstrap_nodes: list[str]
    failed_connections: int  # dials that failed, since the daemon started
    successful_connections: int  # connections that came up
    inbound_connections: int  # of those
    outbound_connections: int  # of those
    retries: int  # re-dials of bootstrap nodes begun
    handshakes_failed: int  # inbound connections that did not get through Noise and Yamux
    refused_connections: int  # inbound connections turned away by a limit
    stream_errors: int  # stream handlers that raised, e.g. at garbage from a peer
    events_published: int  # since the daemon started
    bytes_received: int  # by connections, on the wire
    bytes_sent: int  # by connections, on the wire
    bounds: dict[str, Bound]  # everything that is bounded in number
    mdns: dict[str, int]  # messages by what became of them: sent, send_failed, received, garbage, throttled
    start_time: int | None = None
    uptime: int | None = None


class ConnectResult(Record, frozen=True):
    peer_id: str
    address: str
    direction: Direction
    already_connected: bool  # there was a connection, and no dial


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
    since: int  # instant
    until: int | None = None  # instant; for good where it is missing
    reason: str | None = None


class BanResult(Record, frozen=True):
    ban: BanRecord  # as it is in force
    closed: int  # connections that it ended


class UnbanResult(Record, frozen=True):
    target: str
    unbanned: bool  # false where there was no such ban


class KeepResult(Record, frozen=True):
    peer_id: str
    address: str
    kept: bool  # true


class ForgetResult(Record, frozen=True):
    addresses: list[str]  # that were kept and are no more


class TimelineEntry(Record, frozen=True):
    time: int
    what: str  # one word for the kind: dial_failed, connected, disconnected, banned …
    address: str | None = None
    detail: str | None = None  # in words


class KnownAddress(Record, frozen=True):
    address: str
    source: str  # bootstrap, kept, relay, mdns, or known: told by the peer itself, or dialled before
    state: str | None = None  # of its dial cycle: due, dialling, waiting, resting, connected
    attempts: int | None = None  # dials begun in this cycle
    next_dial: int | None = None  # instant
    last_error: str | None = None


class Explanation(Record, frozen=True):
    """Everything that is known of a peer, or of an address that names none; ``summary`` says it in one sentence."""

    summary: str  # in one sentence
    connected: bool  # to this peer
    connections: list[Connection]  # with it, oldest first
    addresses: list[KnownAddress]  # of it
    tags: dict[str, int]
    protected: bool
    bootstrap: bool
    kept: bool  # whether an address of it is kept across restarts
    timeline: list[TimelineEntry]  # oldest first
    peer_id: str | None = None
    ban: BanRecord | None = None  # that keeps it out


class SubscribeResult(Record, frozen=True):
    """Status and peers as they were at entry ``head`` of the event log: nothing lies between them and the stream."""

    subscription: str
    epoch: str
    head: int
    status: Status  # at that instant
    peers: list[Peer]  # at that instant


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
    reason: str  # closed_by_peer closed reset timeout dead trimmed banned limit stopped shutdown error
    duration: int  # ms since it was connected


class PeerIdentified(EventData, frozen=True):
    """The peer has said what it is: the identify protocol has finished."""

    TYPE = "peer:identify"
    peer_id: str
    agent_version: str
    protocol_version: str
    protocols: list[str]
    addresses: list[str]


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
    reason: str  # Max retries exceeded
    error: str  # of the last dial, in words


class ConnectionCancelled(EventData, frozen=True):
    """A stop cut off the dials of a bootstrap node; once an address, before p2p:stopped."""

    TYPE = "connection:cancelled"
    address: str
    attempts: int  # dials begun


class BootstrapError(EventData, frozen=True):
    """The first failed dial of a bootstrap node's cycle."""

    TYPE = "error"
    type: str  # BOOTSTRAP_CONNECTION_FAILED
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
