"""Vocabulary of tunnels: streams of peers that lead to programs of this machine, and programs that are led to peers."""

from __future__ import annotations

from typing import Literal

from fabstir_client.api.types import Params, Record

TunnelKind = Literal["listen", "forward"]


class TunnelListenParams(Params, frozen=True):
    protocol: str
    target: str  # where peers' streams are led: host:port, or unix:/path
    peers: list[str] | None = None  # ids of the peers that may use it; all if left out
    proxy_protocol: bool | None = None  # whether the target first gets a PROXY v2 header that names the peer
    keep: bool | None = None  # whether it survives a restart of the daemon
    lease: Literal["connection"] | None = None  # closed when this connection ends; not together with `keep`


class TunnelForwardParams(Params, frozen=True):
    peer_id: str
    protocol: str
    listen: str  # where programs connect: 127.0.0.1:PORT, where port 0 takes a free one, or unix:/path
    keep: bool | None = None  # whether it survives a restart of the daemon
    lease: Literal["connection"] | None = None  # closed when this connection ends; not together with `keep`


class TunnelIdParams(Params, frozen=True):
    tunnel_id: str


class TunnelRecord(Record, frozen=True):
    tunnel_id: str  # names it for `tunnel.close`
    kind: TunnelKind  # listen: for peers' streams; forward: to a peer
    protocol: str
    keep: bool  # whether it survives a restart of the daemon
    open: int  # streams through it that are open
    total: int  # streams through it, since the daemon started
    bytes_in: int  # that came from peers
    bytes_out: int  # that went to peers
    peer_id: str | None = None  # the peer that a forward connects to
    target: str | None = None  # where peers' streams are led
    listen: str | None = None  # where programs connect, with the real port
    peers: list[str] | None = None  # ids of the peers that may use it; all if left out
    proxy_protocol: bool = False  # left out where it is false
    lease: Literal["connection"] | None = None  # closed when the connection that made it ends; else left out
    last_error: str | None = None  # why the last stream through it failed, or why it does not work now


class TunnelClosed(Record, frozen=True):
    tunnel_id: str
    closed: int  # streams that were open
