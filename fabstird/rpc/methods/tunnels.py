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
    """Peers' streams on the protocol are connected to the target, which is of this machine unless `[tunnels] allow`
    says more. Lives until it is closed, with a lease until this connection ends, or with `keep` through restarts of the
    daemon, too."""
    holder, tunnels = _holder(call, params), await _tunnels(call)
    return _leased(tunnels, holder, await tunnels.listen(params, holder))


async def forward(call: Call, params: TunnelForwardParams) -> TunnelRecord:
    """Programs that connect to the socket talk to that peer, on the protocol. The daemon keeps dialling the peer;
    while it is away, connections are closed at once. Lives until it is closed, with a lease until this connection ends,
    or with `keep` through restarts."""
    holder, tunnels = _holder(call, params), await _tunnels(call)
    return _leased(tunnels, holder, await tunnels.forward(params, holder))


async def list_(call: Call, _: NoParams) -> list[TunnelRecord]:
    return await (await _tunnels(call)).records()


async def close(call: Call, params: TunnelIdParams) -> TunnelClosed:
    """Ends the streams that are open through it."""
    return await (await _tunnels(call)).close(params.tunnel_id)


def _holder(call: Call, params: TunnelListenParams | TunnelForwardParams) -> Leaseholder | None:
    """The connection that leases the tunnel; None without a lease. Raises `InvalidParams`."""
    if params.lease is None:
        return None
    if params.keep:
        raise InvalidParams("Invalid params: lease: a tunnel that is kept outlives its connection", param="lease")
    return leaseholder(call.subscriber)


def _leased(tunnels: Tunnels, holder: Leaseholder | None, made: TunnelRecord) -> TunnelRecord:
    if holder is not None:
        holder.at_end("tunnels", lambda: tunnels.release(holder))
    return made


async def _tunnels(call: Call) -> Tunnels:
    return (await call.services.node.shared()).tunnels


METHODS = [
    Method("tunnel.listen", TunnelListenParams, TunnelRecord, "Join peers' streams to a program", listen, True, "admin",
           errors=(InvalidState,)),
    Method("tunnel.forward", TunnelForwardParams, TunnelRecord, "Connect programs to a peer", forward, True, "admin",
           errors=(InvalidState, ListenFailed)),
    Method("tunnel.list", NoParams, list[TunnelRecord], "The tunnels, and what went through them", list_,
           access="admin"),
    Method("tunnel.close", TunnelIdParams, TunnelClosed, "Close a tunnel", close, True, "admin",
           errors=(InvalidState,)),
]  # fmt: skip
