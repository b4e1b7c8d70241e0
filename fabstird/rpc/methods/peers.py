"""Methods for single peers: tags, protection, bans and kept addresses."""

from __future__ import annotations

import msgspec

from fabstir_client.api.errors import InvalidParams, InvalidState
from fabstir_client.api.types import (
    BanParams,
    BanRecord,
    BanResult,
    Explanation,
    ForgetResult,
    KeepParams,
    KeepResult,
    NoParams,
    PeerParams,
    PeerTags,
    TagParams,
    TargetParams,
    UnbanParams,
    UnbanResult,
    UntagParams,
)
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import leaseholder


async def tag(call: Call, params: TagParams) -> PeerTags:
    return (await call.services.node.shared()).commands.tag(params.peer_id, params.tag, params.value)


async def untag(call: Call, params: UntagParams) -> PeerTags:
    return (await call.services.node.shared()).commands.untag(params.peer_id, params.tag)


async def protect(call: Call, params: PeerParams) -> PeerTags:
    return (await call.services.node.shared()).commands.protect(params.peer_id)


async def unprotect(call: Call, params: PeerParams) -> PeerTags:
    return (await call.services.node.shared()).commands.unprotect(params.peer_id)


async def ban(call: Call, params: BanParams) -> BanResult:
    """Closes its connections. From then on, connections from and to it are refused, across restarts."""
    target = _one_of(target=params.target, peerId=params.peer_id, ip=params.ip, cidr=params.cidr)
    result = (await call.services.node.shared()).commands.ban(target, params.duration, params.reason)
    await _saved(call)
    return result


async def unban(call: Call, params: UnbanParams) -> UnbanResult:
    target = _one_of(target=params.target, peerId=params.peer_id, ip=params.ip, cidr=params.cidr)
    result = (await call.services.node.shared()).commands.unban(target)
    await _saved(call)
    return result


async def bans(call: Call, _: NoParams) -> list[BanRecord]:
    return (await call.services.node.shared()).commands.bans()


async def keep(call: Call, params: KeepParams) -> KeepResult:
    """The node keeps dialling the address, as it does a bootstrap node, until ``peer.forget``: across restarts, or with
    a lease for as long as this connection, an IPC socket or a WebSocket, is open. An address that several connections
    have leased is kept until the last of them closes."""
    commands = (await call.services.node.shared()).commands
    if params.lease is None:
        result = commands.keep(params.address)
        await _saved(call)
        return result
    holder = leaseholder(call.subscriber)
    result = commands.keep(params.address, holder)
    holder.at_end("leases", lambda: commands.end_leases(holder))
    return result


async def forget(call: Call, params: TargetParams) -> ForgetResult:
    """An open connection stays open. Addresses leased by other connections are still kept."""
    target = _one_of(target=params.target, peerId=params.peer_id, address=params.address)
    result = (await call.services.node.shared()).commands.forget(target, call.subscriber)
    await _saved(call)
    return result


async def explain(call: Call, params: TargetParams) -> Explanation:
    """Includes the dials, bans, limits and errors that led to this state."""
    node = call.services.node
    target = _one_of(target=params.target, peerId=params.peer_id, address=params.address)
    shared = await node.shared()
    found = shared.commands.explain(target, node.state)
    wanting = shared.tunnels.wanting(found.peer_id) if found.peer_id is not None else []
    return msgspec.structs.replace(found, tunnels=wanting) if wanting else found


def _one_of(**given: str | None) -> str:
    """The value of the only parameter that is given. Raises `InvalidParams` if there are more, or none."""
    values = [value for value in given.values() if value is not None]
    if len(values) != 1:
        names = ", ".join(given)
        raise InvalidParams(f"Invalid params: exactly one of {names} is needed", param=next(iter(given)))
    return values[0]


async def _saved(call: Call) -> None:
    """Save the peer book before the call is answered, so that the change survives a crash. Raises `InvalidState` where
    that fails."""
    try:
        await call.services.node.book.write()
    except OSError as error:
        raise InvalidState(
            f"done, but the change will be lost at a restart: peers.json cannot be written: {error.strerror}",
            saved=False,
        ) from error


METHODS = [
    Method("peer.tag", TagParams, PeerTags, "Tag a peer; trimming spares high values", tag, changes=True),
    Method("peer.untag", UntagParams, PeerTags, "Remove a tag from a peer", untag, changes=True),
    Method("peer.protect", PeerParams, PeerTags, "Never trim a peer", protect, changes=True),
    Method("peer.unprotect", PeerParams, PeerTags, "Let a peer be trimmed again", unprotect, changes=True),
    Method("peer.ban", BanParams, BanResult, "Ban a peer id, an IP address or a network", ban, changes=True,
           errors=(InvalidState,)),
    Method("peer.unban", UnbanParams, UnbanResult, "Lift a ban", unban, changes=True,
           errors=(InvalidState,), idle=lambda result: not result.unbanned),
    Method("peer.bans", NoParams, list[BanRecord], "Bans in force", bans),
    Method("peer.keep", KeepParams, KeepResult, "Stay connected to an address, across restarts", keep, changes=True,
           errors=(InvalidState,)),
    Method("peer.forget", TargetParams, ForgetResult, "Stop keeping an address or a peer", forget, changes=True,
           errors=(InvalidState,), idle=lambda result: not result.addresses),
    Method("peer.explain", TargetParams, Explanation, "Why a peer is or is not connected", explain),
]  # fmt: skip
