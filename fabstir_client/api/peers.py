"""The vocabulary of peers and of connections to them: parameters and results."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fabstir_client.api.base import Direction, Params, Record, words

# --------------------------------------------------------------------------------------------------------------------
# Parameters


class ConnectParams(Params, frozen=True):
    address: str  # a multiaddr with /p2p/<peer id>, or a peer id whose addresses are known
    timeout: int | None = None


class DisconnectParams(Params, frozen=True):
    peer_id: str


class PingParams(Params, frozen=True):
    peer_id: str
    timeout: int | None = None


class PeerParams(Params, frozen=True):
    peer_id: str


class TagParams(Params, frozen=True):
    peer_id: str
    tag: Annotated[str, msgspec.Meta(max_length=128)]
    value: int  # the higher the sum over a peer's tags, the longer trimming spares it


class UntagParams(Params, frozen=True):
    peer_id: str
    tag: str


class BanParams(Params, frozen=True):
    """Whom: ``target``, or by the name of what it is, ``peerId``, ``ip`` or ``cidr``; exactly one of them."""

    target: str | None = None  # a peer id, an IP address or a network in CIDR notation
    duration: int | None = None  # ms; permanent if left out
    reason: Annotated[str, msgspec.Meta(max_length=1000)] | None = None  # for people
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
    lease: Literal["connection"] | None = None  # kept for as long as this connection is open; for good if left out


class TargetParams(Params, frozen=True):
    """``target``, or by the name of what it is, ``peerId`` or ``address``; exactly one of them."""

    target: str | None = None  # a peer id or a multiaddr
    peer_id: str | None = None
    address: str | None = None


# --------------------------------------------------------------------------------------------------------------------
# Results


class Connection(Record, frozen=True):
    address: str  # of the other end
    direction: Direction
    opened_at: int  # instant
    transport: Annotated[str, words("tcp", "ws", "wss", "quic-v1", "p2p-circuit")]
    security: str  # e.g. "/noise"
    muxer: str  # e.g. "/yamux/1.0.0"
    streams: int
    bytes_in: int = msgspec.field(
        default_factory=int
    )  # of all its streams, with the muxer's own; 0 from an older daemon
    bytes_out: int = msgspec.field(
        default_factory=int
    )  # of all its streams, with the muxer's own; 0 from an older daemon
    relay: str | None = None  # the peer id of the relay that a connection of transport p2p-circuit leads through


class Peer(Record, frozen=True):
    peer_id: str
    direction: Direction  # of its oldest connection
    connected_at: int  # instant
    addresses: list[str]  # known ones, identify's included, with /p2p/
    connections: list[Connection]  # oldest first
    protocols: list[str]  # ids of the protocols that it handles, from identify
    tags: dict[str, int]
    protected: bool
    bootstrap: bool
    bytes_in: int = msgspec.field(default_factory=int)  # over the connections that are open; 0 from an older daemon
    bytes_out: int = msgspec.field(default_factory=int)  # over the connections that are open; 0 from an older daemon
    agent_version: str | None = None  # known once identify has finished
    protocol_version: str | None = None
    latency: float | None = None  # ms, smoothed round trip, once measured


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
    lease: Literal["connection"] | None = None  # how long; permanent if left out


class ForgetResult(Record, frozen=True):
    addresses: list[str]  # that are no longer kept


class TimelineEntry(Record, frozen=True):
    time: int
    what: Annotated[
        str,
        words(
            "dial_failed",
            "gave_up",
            "connected",
            "disconnected",
            "identified",
            "banned",
            "unbanned",
            "kept",
            "forgotten",
            "direct",
            "stays_relayed",
            "hole_punch",
        ),
    ]  # which kind of thing has happened
    address: str | None = None
    detail: str | None = None  # in words


class KnownAddress(Record, frozen=True):
    address: str
    source: Annotated[
        str, words("bootstrap", "kept", "relay", "mdns", "known")
    ]  # "known": told by it, or dialled before
    state: Annotated[str, words("due", "dialling", "waiting", "resting", "connected")] | None = None  # of its cycle
    attempts: int | None = None  # dials begun in this cycle
    next_dial: int | None = None  # instant
    last_error: str | None = None


class Explanation(Record, frozen=True):
    """Everything known about a peer, or about an address that names none; ``summary`` says it in one sentence."""

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
    tunnels: list[str] | None = None  # ids of the tunnels that want it
