"""Methods for tunnels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabstir_client.api.errors import InvalidParams, InvalidState, ListenFailed
from fabstir_client.api.tunnels import (
    TunnelClosed,
    TunnelForwardParams,
    TunnelIdParams,
    TunnelListenParams,
    TunnelRecord,
)
from fabstir_client.api.types import NoParams
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import Leaseholder, leaseholder

if TYPE_CHECKING:
    from fabstird.p2p.tunnels.manager import Tunnels


async def listen(call: Call, params: TunnelListenParams) -> TunnelRecord:
    """Connects peers' streams on the protocol to the target, which must be on this machine unless `[tunnels] allow`
    lists it. The tunnel lasts until it is closed or the daemon ends; with a lease, until this connection closes; with
    `keep`, across restarts of the daemon."""
    holder, tunnels = _holder(call, params), await _tunnels(call)
    return _leased(tunnels, holder, await tunnels.listen(params, holder))


async def forward(call: Call, params: TunnelForwardParams) -> TunnelRecord:
    """Connects programs that connect to the socket to the peer, on the protocol. The daemon keeps dialling the peer;
    while it is not connected, programs' connections are closed at once. The tunnel lasts until it is closed or the
    daemon ends; with a lease, until this connection closes; with `keep`, across restarts of the daemon."""
    holder, tunnels = _holder(call, params), await _tunnels(call)
    return _leased(tunnels, holder, await tunnels.forward(params, holder))


async def list_(call: Call, _: NoParams) -> list[TunnelRecord]:
    return await (await _tunnels(call)).records()


async def close(call: Call, params: TunnelIdParams) -> TunnelClosed:
    """Closes the tunnel, and ends its open streams."""
    return await (await _tunnels(call)).close(params.tunnel_id)


def _holder(call: Call, params: TunnelListenParams | TunnelForwardParams) -> Leaseholder | None:
    """The connection that leases the tunnel; None without a lease. Raises `InvalidParams`."""
    if params.lease is None:
        return None
    if params.keep:
        raise InvalidParams("Invalid params: lease: cannot be combined with keep", param="lease")
    return leaseholder(call.subscriber)


def _leased(tunnels: Tunnels, holder: Leaseholder | None, tunnel: TunnelRecord) -> TunnelRecord:
    if holder is not None:
        holder.at_end("tunnels", lambda: tunnels.release(holder))
    return tunnel


async def _tunnels(call: Call) -> Tunnels:
    return (await call.services.node.shared()).tunnels


METHODS = [
    Method("tunnel.listen", TunnelListenParams, TunnelRecord, "Connect peers' streams to a local program", listen, True,
           "admin", errors=(InvalidState,)),
    Method("tunnel.forward", TunnelForwardParams, TunnelRecord, "Connect local programs to a peer", forward, True,
           "admin", errors=(InvalidState, ListenFailed)),
    Method("tunnel.list", NoParams, list[TunnelRecord], "All tunnels, and their traffic", list_,
           access="admin"),
    Method("tunnel.close", TunnelIdParams, TunnelClosed, "Close a tunnel", close, True, "admin",
           errors=(InvalidState,)),
]  # fmt: skip
