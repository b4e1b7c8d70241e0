"""The method that waits until the node is in a given state."""

from __future__ import annotations

from functools import partial

import msgspec
import trio

from fabstir_client.api.errors import DeadlineExceeded, InvalidParams
from fabstir_client.api.types import WaitParams, WaitResult
from fabstird.rpc.access import admit
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.params import duration
from fabstird.rpc.waits import Now


async def wait(call: Call, params: WaitParams) -> WaitResult:
    """Answers as soon as all given conditions hold at the same time; without any, at once. With ``peerId``, that peer
    must speak ``protocol``; otherwise any peer may. Fails with TIMEOUT if they do not hold in time."""
    services, node = call.services, call.services.node
    for part in ("status", "peers"):  # both are in the answer
        admit(part, "read", call.caller)
    timeout = duration("timeout", params.timeout)
    assert timeout is not None
    if params.peers is not None and params.peers < 0:
        raise InvalidParams(f"Invalid params: peers: must be 0 or more, not {params.peers}", param="peers")
    with trio.move_on_after(timeout / 1000):
        if params.peer_id is not None:
            peer_id = (await node.shared()).commands.peer_id(params.peer_id)
            params = msgspec.structs.replace(params, peer_id=peer_id)
        return await services.waits.until(params, call.place, partial(_now, call), partial(_change, call))
    state = f"the node is {node.state}, with {node.view.peer_count()} connected peers"
    raise DeadlineExceeded(f"the conditions did not hold within {timeout} ms: {state}", timeout=timeout)


def _now(call: Call) -> Now:
    return Now(call.services.status(), call.services.node.view.peers)


async def _change(call: Call) -> None:
    """Return after an event, or after a change of the node's state that has no event."""
    events = call.services.events

    async def event() -> None:
        await events.wait_beyond(head)
        nursery.cancel_scope.cancel()

    head = events.head
    async with trio.open_nursery() as nursery:
        nursery.start_soon(event)
        await call.services.node.changed()
        nursery.cancel_scope.cancel()


METHODS = [
    Method("wait", WaitParams, WaitResult, "Wait until the node is in a given state", wait),
]
