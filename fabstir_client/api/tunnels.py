"""Vocabulary of tunnels, which connect peers' streams to local programs, and local programs to peers."""

from __future__ import annotations

from typing import Literal

from fabstir_client.api.types import Params, Record

TunnelKind = Literal["listen", "forward"]


class TunnelListenParams(Params, frozen=True):
    protocol: str
    target: str  # where peers' streams are connected to: host:port, or unix:/path
    peers: list[str] | None = None  # ids of the peers that may use it; all if left out
    proxy_protocol: bool | None = None  # whether a PROXY v2 header that names the peer is sent to the target first
    keep: bool | None = None  # whether it survives a restart of the daemon
    lease: Literal["connection"] | None = None  # closed when this connection closes; not together with `keep`


class TunnelForwardParams(Params, frozen=True):
    peer_id: str
    protocol: str
    listen: str  # where programs connect: 127.0.0.1:PORT (0 for a free port), or unix:/path
    keep: bool | None = None  # whether it survives a restart of the daemon
    lease: Literal["connection"] | None = None  # closed when this connection closes; not together with `keep`


class TunnelIdParams(Params, frozen=True):
    tunnel_id: str


class TunnelRecord(Record, frozen=True):
    tunnel_id: str  # identifies it in `tunnel.close`
    kind: TunnelKind  # listen: for peers' streams; forward: to a peer
    protocol: str
    keep: bool  # whether it survives a restart of the daemon
    open: int  # number of open streams through it
    total: int  # number of streams through it since the daemon started
    bytes_in: int  # received from peers
    bytes_out: int  # sent to peers
    peer_id: str | None = None  # the peer that a forward tunnel connects to
    target: str | None = None  # where peers' streams are connected to
    listen: str | None = None  # where programs connect, with the actual port
    peers: list[str] | None = None  # ids of the peers that may use it; all if left out
    proxy_protocol: bool = False  # left out if it is false
    # "connection" if it is closed when the connection that made it closes; otherwise left out
    lease: Literal["connection"] | None = None
    last_error: str | None = None  # why the last stream through it failed, or why the tunnel does not work now


class TunnelClosed(Record, frozen=True):
    tunnel_id: str
    closed: int  # number of open streams that were closed
