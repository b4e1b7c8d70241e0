"""The vocabulary of the API: parameters, results and events, as msgspec structs.

The daemon imports this module to build its answers and the client to read them, so the two cannot drift apart.
On the wire every name is camelCase, instants are integer milliseconds since the Unix epoch, durations are integer
milliseconds, peer ids are base58btc text and addresses are multiaddr text.

A field that may be missing has the default ``None`` and is left out of the JSON while it is ``None``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fabstir_client.api.base import (
    AnyEvent,
    Direction,
    EndReason,
    EventData,
    EventType,
    NodeState,
    Overrides,
    Params,
    Record,
    words,
)
from fabstir_client.api.node_events import (
    EVENT_DATA,
    BootstrapError,
    ConnectionCancelled,
    ConnectionFailed,
    ConnectionRetry,
    Event,
    EventsResult,
    Lagged,
    MappingMethod,
    NatMapped,
    NatUnmapped,
    NodeStarted,
    NodeStopped,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
    PeerPath,
)
from fabstir_client.api.peers import (
    BanParams,
    BanRecord,
    BanResult,
    Connection,
    ConnectParams,
    ConnectResult,
    DisconnectParams,
    DisconnectResult,
    Explanation,
    ForgetResult,
    KeepParams,
    KeepResult,
    KnownAddress,
    Peer,
    PeerParams,
    PeerTags,
    PingParams,
    PingResult,
    TagParams,
    TargetParams,
    TimelineEntry,
    UnbanParams,
    UnbanResult,
    UntagParams,
)

# Of other modules, what is handed on; whatever is defined here needs no entry.
__all__ = [
    "EVENT_DATA",
    "AnyEvent",
    "BanParams",
    "BanRecord",
    "BanResult",
    "BootstrapError",
    "ConnectParams",
    "ConnectResult",
    "Connection",
    "ConnectionCancelled",
    "ConnectionFailed",
    "ConnectionRetry",
    "Direction",
    "DisconnectParams",
    "DisconnectResult",
    "EndReason",
    "Event",
    "EventData",
    "EventType",
    "EventsResult",
    "Explanation",
    "ForgetResult",
    "KeepParams",
    "KeepResult",
    "KnownAddress",
    "Lagged",
    "MappingMethod",
    "NatMapped",
    "NatUnmapped",
    "NodeStarted",
    "NodeState",
    "NodeStopped",
    "Overrides",
    "Params",
    "Peer",
    "PeerConnected",
    "PeerDisconnected",
    "PeerIdentified",
    "PeerParams",
    "PeerPath",
    "PeerTags",
    "PingParams",
    "PingResult",
    "Record",
    "TagParams",
    "TargetParams",
    "TimelineEntry",
    "UnbanParams",
    "UnbanResult",
    "UntagParams",
    "words",
]

# --------------------------------------------------------------------------------------------------------------------
# Parameters


class NodeOverrides(Params, frozen=True):
    """What ``start(config)`` may override for one run: keys of ``[node]``, in camelCase."""

    bootstrap_nodes: list[str] | None = None  # multiaddrs with /p2p/<peer id>
    listen_addresses: list[str] | None = None  # multiaddrs; port 0 takes a free one
    enable_dht: bool | None = msgspec.field(default=None, name="enableDHT")  # [node] enable_dht
    enable_mdns: bool | None = msgspec.field(default=None, name="enableMDNS")  # [node] enable_mdns
    dial_timeout: int | None = None  # ms, applied to every dial
    request_timeout: int | None = None  # ms, for every call that sets no timeout itself
    max_retries: int | None = None  # re-dials after the first failed dial of a bootstrap node
    retry_delay: int | None = None  # ms before the first re-dial; doubles each time


class NoParams(Params, frozen=True):
    """For methods that take none."""


class StartParams(Params, frozen=True):
    config: Overrides | None = None  # for this run only; checked as the configuration file is


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


class WaitParams(Params, frozen=True, kw_only=True):
    """What must hold, all of it at once."""

    state: NodeState | None = None  # of the node
    peers: int | None = None  # at least so many are connected
    peer_id: str | None = None  # is connected
    protocol: str | None = None  # ``peerId`` speaks it, or any peer
    timeout: int  # ms


# --------------------------------------------------------------------------------------------------------------------
# Results


class Empty(Record, frozen=True):
    """No content: the method has succeeded."""


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


class AddressReachability(Record, frozen=True):
    address: str
    # "reachable": several servers have dialled it lately; "relayed": it leads through a relay that lets peers in;
    # "unknown": neither, which is all that can be said of an address in a private network
    state: Literal["reachable", "relayed", "unknown"]
    checked_at: int | None = None  # when a server last tried to dial it
    # how it is known: "interface", the node listens there; "mapped", the router forwards it to the node; "observed",
    # peers see the node there; "announced", it is configured; "relay", it leads through one
    known_from: list[Literal["interface", "mapped", "observed", "announced", "relay"]] = msgspec.field(
        name="from", default_factory=list
    )
    reachable: Literal["reachable", "relayed", "unknown", "unreachable"] = msgspec.field(
        default_factory=lambda: "unknown"
    )  # as `state`, but "unreachable" if several servers dialled it lately and none got through
    confirmed_by: int = msgspec.field(
        default_factory=int
    )  # servers that have dialled it lately, 16 at most; 0 from an older daemon


class PortMapping(Record, frozen=True):
    """Whether the router forwards connections from outside to this node."""

    # "off": [nat] port_mapping is false; "idle": there is nothing to ask for, or nobody to ask; "asking": the first
    # round is under way; "mapped": it does; "refused": no port is mapped, and the router is asked again
    state: Literal["off", "idle", "asking", "mapped", "refused"]
    gateway: str | None = None  # the router's address in the local network
    method: MappingMethod | None = None  # how it was asked, where it maps
    reason: str | None = None  # in words, why nothing or not everything is mapped, or how useful the mapping is


class Addresses(Record, frozen=True):
    peer_id: str
    listen: list[str]  # actual interface addresses and ports
    announced: list[str]  # sent to other peers by identify
    observed: list[str]  # where connected peers see this node
    reachability: list[AddressReachability]  # of each address that is listened on or announced
    port_mapping: PortMapping | None = None  # null while the node is not started


class Bound(Record, frozen=True):
    """Something that is bounded: the current amount, and the bound."""

    current: int  # the current amount
    limit: int


class StreamTotals(Record, frozen=True):
    """Streams of users, without messages."""

    open: int  # whose bytes go both ways, or may
    waiting: int  # peers' streams that wait to be accepted
    ended: int  # since the daemon started
    bytes_in: int  # that came from peers, since the daemon started
    bytes_out: int  # that went to peers, since the daemon started


class Metrics(Record, frozen=True):
    connected: bool
    peer_id: str
    connections: int
    total_peers: int  # connected peers
    connected_peers: list[str]
    listen_addresses: list[str]
    bootstrap_nodes: list[str]
    failed_connections: int  # dials that failed, except of peers known only from the DHT
    successful_connections: int  # connections that came up
    inbound_connections: int  # of those
    outbound_connections: int  # of those
    retries: int  # re-dials of bootstrap nodes begun
    handshakes_failed: int  # inbound connections that did not get through Noise and Yamux
    refused_connections: int  # inbound connections refused by a limit
    stream_errors: int  # stream handlers that raised, e.g. at garbage from a peer
    caught: dict[str, int]  # defects of this daemon, by what they ended: a stream, a dial, a connection …; see the log
    events_published: int  # since the daemon started
    bytes_received: int  # by connections, on the wire
    bytes_sent: int  # by connections, on the wire
    bounds: dict[str, Bound]  # everything that is bounded in number
    mdns: dict[str, int]  # messages by what became of them: sent, sendFailed, received, garbage, throttled
    throttled_connections: int = 0  # refused ones whose IP address came more often than `max_new_per_ip`
    streams: StreamTotals | None = None  # of users, byte for byte; left out by a daemon that does not count them
    start_time: int | None = None
    uptime: int | None = None


class SubscribeResult(Record, frozen=True):
    """Status and peers at entry ``head`` of the event log. The events that follow begin right after it."""

    subscription: str
    epoch: str
    head: int
    status: Status  # at that instant
    peers: list[Peer]  # at that instant


class WaitResult(Record, frozen=True):
    """The state at the instant at which all conditions held."""

    status: Status
    peers: list[Peer]


class UnsubscribeResult(Record, frozen=True):
    subscription: str


class VersionResult(Record, frozen=True):
    version: str
    python: str
    libp2p: str
    protocols: list[str]
