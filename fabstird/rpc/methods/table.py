"""The methods of the API: a line of the table for each, and a thin handler.

`METHODS` is the whole table. The methods about the node, its events and the daemon are here; each other area is a
module beside this one.
"""

from __future__ import annotations

import dataclasses
import platform
from typing import Any, Protocol

import msgspec
import trio

from fabstir_client.api.errors import (
    DialFailed,
    InvalidParams,
    InvalidState,
    ListenFailed,
    MethodNotFound,
    NodeNotRunning,
    PeerNotFound,
)
from fabstir_client.api.types import (
    Addresses,
    ConnectParams,
    ConnectResult,
    DisconnectParams,
    DisconnectResult,
    Empty,
    EventsParams,
    EventsResult,
    Metrics,
    NoParams,
    Peer,
    PingParams,
    PingResult,
    StartParams,
    Status,
    SubscribeParams,
    SubscribeResult,
    UnsubscribeParams,
    UnsubscribeResult,
    VersionResult,
)
from fabstird import __version__
from fabstird.config import Config
from fabstird.events import AfterHead, EventLog, Gap
from fabstird.p2p.node import libp2p_version
from fabstird.rpc.access import admit
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.event_messages import envelope, known_types, matches, position
from fabstird.rpc.methods import access as methods_access
from fabstird.rpc.methods import bridge as methods_bridge
from fabstird.rpc.methods import debug as methods_debug
from fabstird.rpc.methods import dht as methods_dht
from fabstird.rpc.methods import fabstir as methods_fabstir
from fabstird.rpc.methods import peers as methods_peers
from fabstird.rpc.methods import streams as methods_streams
from fabstird.rpc.methods import tunnels as methods_tunnels
from fabstird.rpc.methods import ui as methods_ui
from fabstird.rpc.methods import waiting as methods_waiting
from fabstird.rpc.openrpc import Document, ServedDocument
from fabstird.rpc.params import duration

MAX_EVENTS = 1000  # entries in one answer of `events`
MAX_EVENTS_BYTES = 4 * 1024 * 1024  # of entries in one answer, at least one; the caller asks again after its last
MAX_WAIT = 60000  # ms that `events` waits at most


class Subscriber(Protocol):
    """A connection that can have subscriptions. A subscription's events are sent after its reply."""

    def subscribe(self, call: Call, after: int, gap: Gap | None, types: frozenset[str] | None) -> str: ...

    def unsubscribe(self, subscription: str) -> bool: ...


# --------------------------------------------------------------------------------------------------------------------
# The node


async def start(call: Call, params: StartParams) -> Status:
    """Idempotent. Returns once the node listens, without waiting for any dial. ``config`` applies to this run only. If
    the node cannot listen, its state becomes "failed"; call ``start`` again once the cause is corrected."""
    await call.services.node.start(params.config)
    return call.services.status()


async def stop(call: Call, _: NoParams) -> Status:
    """Idempotent. Ends connections, dials and pending retries. The API stays up, and ``start`` starts the node again
    with the same peer id."""
    await call.services.node.stop()
    return call.services.status()


def status(call: Call, _: NoParams) -> Status:
    """Answers at once, in every state of the node."""
    return call.services.status()


def peers(call: Call, _: NoParams) -> list[Peer]:
    return call.services.node.view.peers()


def addresses(call: Call, _: NoParams) -> Addresses:
    return call.services.node.view.addresses()


def metrics(call: Call, _: NoParams) -> Metrics:
    return call.services.metrics()


async def connect(call: Call, params: ConnectParams) -> ConnectResult:
    """Does nothing if the peer is already connected. The dial ignores any back-off."""
    return await call.services.node.run().commands.connect(params.address, _timeout(params.timeout))


async def disconnect(call: Call, params: DisconnectParams) -> DisconnectResult:
    """A bootstrap node is not dialled again for [node] keepalive_interval."""
    return await call.services.node.run().commands.disconnect(params.peer_id)


async def ping(call: Call, params: PingParams) -> PingResult:
    return await call.services.node.run().commands.ping(params.peer_id, _timeout(params.timeout))


# --------------------------------------------------------------------------------------------------------------------
# Events


def subscribe(call: Call, params: SubscribeParams) -> SubscribeResult:
    """On IPC and WebSocket. The answer is a snapshot; every event after it follows as a notification: ``event`` for
    each, ``lagged`` if some were dropped, ``heartbeat`` when nothing happens. No notification precedes the answer."""
    subscriber = _subscriber(call)
    services = call.services
    for part in ("status", "peers"):  # both are in the answer
        admit(part, "read", call.caller)
    after, gap = _position(services.events, params.after, params.epoch)
    subscription = subscriber.subscribe(call, after, gap, _types(params.types))
    # There is no await from here on, so head, status, peers and the cursor are of one instant.
    return SubscribeResult(
        subscription=subscription,
        epoch=services.events.epoch,
        head=services.events.head,
        status=services.status(),
        peers=services.node.view.peers(),
    )


def unsubscribe(call: Call, params: UnsubscribeParams) -> UnsubscribeResult:
    """On IPC and WebSocket. Subscriptions also end with their connection."""
    if not _subscriber(call).unsubscribe(params.subscription):
        raise InvalidParams(
            f'Invalid params: subscription: there is no "{params.subscription}" on this connection',
            param="subscription",
        )
    return UnsubscribeResult(subscription=params.subscription)


def _subscriber(call: Call) -> Subscriber:
    if call.subscriber is None:
        raise MethodNotFound("subscribing needs the IPC socket or a WebSocket; over POST /rpc, call `events` instead")
    subscriber: Subscriber = call.subscriber
    return subscriber


async def events(call: Call, params: EventsParams) -> EventsResult:
    """The same events as a long poll, for callers of POST /rpc. Without ``after``, it returns all that the log still
    holds."""
    log = call.services.events
    types = _types(params.types)
    limit = MAX_EVENTS if params.limit is None else params.limit
    if not 1 <= limit <= MAX_EVENTS:
        raise InvalidParams(f"Invalid params: limit: must be 1 to {MAX_EVENTS}, not {limit}", param="limit")
    wait = 0 if params.timeout is None else params.timeout
    if not 0 <= wait <= MAX_WAIT:
        raise InvalidParams(f"Invalid params: timeout: must be 0 to {MAX_WAIT} ms, not {wait}", param="timeout")
    wanted = log.oldest - 1 if params.after is None else params.after
    after, gap = _position(log, wanted, params.epoch)
    missed = 0 if gap is None else gap.missed
    if gap is not None:
        log.note_gap(gap)
    found: list[Any] = []
    size = 0
    with trio.move_on_after(wait / 1000):
        while True:
            for item in log.read(after):
                after = position(item)
                if isinstance(item, Gap):
                    missed = item.missed  # the ring dropped entries while we waited
                    log.note_gap(item)
                elif matches(item, types):
                    found.append(envelope(item))
                    size += len(item.body)
                    if len(found) == limit or size > MAX_EVENTS_BYTES:
                        break
            if found or missed != 0 or not wait:
                break
            with call.services.waits.place(call.place):
                await log.wait_beyond(after)
    return EventsResult(epoch=log.epoch, head=log.head, events=found, missed=missed)


def _position(log: EventLog, after: int | None, epoch: str | None) -> tuple[int, Gap | None]:
    if after is not None and after < 0:
        raise InvalidParams(f"Invalid params: after: must be 0 or more, not {after}", param="after")
    try:
        return log.start_after(after, epoch)
    except AfterHead as error:
        raise InvalidParams(f"Invalid params: {error}", param="after", head=log.head) from error


def _types(types: list[str] | None) -> frozenset[str] | None:
    if types is None:
        return None
    for name in types:
        if name not in known_types():
            raise InvalidParams(
                f'Invalid params: types: unknown event type "{name}"; known are {", ".join(known_types())}',
                param="types",
            )
    return frozenset(types)


def _timeout(timeout: int | None) -> int | None:
    return duration("timeout", timeout)


# --------------------------------------------------------------------------------------------------------------------
# The daemon


def config(call: Call, _: NoParams) -> dict[str, Any]:
    """Has the keys of the configuration file, without tokens. While the node runs with overrides from ``start``,
    ``[node]`` shows the values in effect."""
    shown, node = call.services.config, call.services.node
    if node.state in ("starting", "started"):
        shown = dataclasses.replace(shown, node=node.settings)
    return shown.to_dict()


def version(call: Call, _: NoParams) -> VersionResult:
    return VersionResult(
        version=__version__,
        python=platform.python_version(),
        libp2p=libp2p_version(),
        protocols=call.services.node.view.protocols(),
    )


def shutdown(call: Call, _: NoParams) -> dict[str, Any]:
    """Answers before the daemon stops."""
    call.after_reply.append(call.services.shutdown)
    return {}


def discover(call: Call, _: NoParams) -> msgspec.Raw:
    return OPENRPC.value


METHODS = [  # this module's own, then one line for each area
    Method("start", StartParams, Status, "Start the node; `config` overrides keys for this run", start, changes=True,
           errors=(InvalidState, ListenFailed)),
    Method("stop", NoParams, Status, "Stop the node: end connections, dials and pending retries", stop, changes=True),
    Method("status", NoParams, Status, "State of the node, and the newest event", status),
    Method("peers", NoParams, list[Peer], "Connected peers, one entry for each", peers),
    Method("addresses", NoParams, Addresses, "Addresses: listened on, announced, observed by peers", addresses),
    Method("metrics", NoParams, Metrics, "Counters since the daemon started", metrics),
    Method("connect", ConnectParams, ConnectResult, "Connect to a multiaddr or to a known peer", connect, changes=True,
           errors=(NodeNotRunning, PeerNotFound, DialFailed)),
    Method("disconnect", DisconnectParams, DisconnectResult, "Close all connections to a peer", disconnect,
           changes=True, errors=(NodeNotRunning, PeerNotFound)),
    Method("ping", PingParams, PingResult, "Measure the round-trip time to a connected peer", ping,
           errors=(NodeNotRunning, PeerNotFound, InvalidState)),
    Method("subscribe", SubscribeParams, SubscribeResult, "Follow events on this connection", subscribe,
           errors=(MethodNotFound,)),
    Method("unsubscribe", UnsubscribeParams, UnsubscribeResult, "End a subscription", unsubscribe,
           errors=(MethodNotFound,)),
    Method("events", EventsParams, EventsResult, "Events after a number; can wait for the next one", events),
    *methods_waiting.METHODS,
    Method("config", NoParams, Config, "The effective configuration", config),
    Method("version", NoParams, VersionResult, "Versions, and the protocols that the node answers", version),
    Method("shutdown", NoParams, Empty, "Stop the daemon, as SIGTERM does", shutdown, True, "admin"),
    *methods_peers.METHODS,
    *methods_streams.METHODS,
    *methods_tunnels.METHODS,
    *methods_dht.METHODS,
    *methods_fabstir.METHODS,
    *methods_bridge.METHODS,
    *methods_access.METHODS,
    *methods_debug.METHODS,
    *methods_ui.METHODS,
    Method("rpc.discover", NoParams, Document, "This document", discover),
]  # fmt: skip

OPENRPC = ServedDocument(METHODS)
