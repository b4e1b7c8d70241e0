"""`P2PClient` for trio and asyncio: the TypeScript SDK's class, on top of the daemon.

Its own thread (`follower`) follows the events and delivers each to its handlers, one after the other, in the event loop
that called ``start()`` if there was one. Every call has its own short connection, so any number may run at a time, and
an interrupted call leaves nothing behind.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from fabstir_client._async.calling import call_once
from fabstir_client._async.concurrency import Lock, Signal, accepted, delivering, shielded
from fabstir_client._core import calls
from fabstir_client._core.discovery import StrPath, Target
from fabstir_client._core.emitter import Handler, Handlers, Tap, handling
from fabstir_client._core.protocol import Call, T
from fabstir_client._sync.follower import DELIVERED_WITHIN, ENDED_WITHIN, OPENED_WITHIN, Follower, NodeView
from fabstir_client.api import types
from fabstir_client.api.errors import ConnectionLost, InvalidState, NodeNotRunning

logger = logging.getLogger("fabstir_client.p2p")


@dataclass(frozen=True, slots=True)
class _Following:
    follower: Follower
    ended: Signal


class P2PClient:
    """The daemon's node, with the TypeScript SDK's interface.

    ``config`` has the SDK's keys, in camelCase or snake_case (``bootstrapNodes``, ``listenAddresses``, ``enableDHT``,
    ``enableMDNS``, ``dialTimeout``, ``requestTimeout``, ``maxRetries``, ``retryDelay``); keys that it omits come from
    the daemon's own configuration. Any other key, or a value of the wrong type, raises `InvalidConfig`.

    The daemon has only one node, so ``stop()`` stops it for everybody. If it runs with another configuration,
    ``start()`` restarts it with this one, or raises `InvalidState` with ``restart=False``.

    With ``shared=True`` other programs use the node too, and this client never stops or configures it. The bootstrap
    nodes are kept only while this client is started, even if it is killed; the rest of ``config`` is ignored.
    ``start()`` starts a stopped node as the daemon is configured; ``stop()`` only releases it.

    ``api``, ``data_dir`` and ``token`` are as in `fabstir_client.connect`.
    """

    def __init__(
        self,
        config: calls.Config | None = None,
        *,
        api: str | None = None,
        data_dir: StrPath | None = None,
        token: str | None = None,
        restart: bool = True,
        shared: bool = False,
    ) -> None:
        self._config = calls.overrides(config)
        self._shared = shared
        self._target = Target(api, data_dir, token)
        self._restart = restart
        self._handlers = Handlers()
        self._view = NodeView()
        self._following: _Following | None = None
        self._changing = Lock()

    async def __aenter__(self) -> P2PClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with shielded():  # bounded: every wait in stop() is
            await self.stop()

    def on(self, event: str, handler: Handler) -> P2PClient:
        """Call ``handler`` with the data of each ``event`` from now on; it may be a coroutine function.

        ``peer:connect`` and ``peer:disconnect`` pass the peer id, the others a dict with the names on the wire. Beside
        the daemon's events there are ``lagged`` (``{missed, resume}``), where events were missed, and ``error`` with
        ``{type: "CONNECTION_LOST", message}`` when the daemon was lost. Exceptions of handlers are logged.
        """
        self._handlers.add(event, accepted(handler))
        return self

    def off(self, event: str, handler: Handler) -> P2PClient:
        """Undo an `on`."""
        self._handlers.remove(event, handler)
        return self

    def tap(self, tap: Tap) -> None:
        """Call ``tap(event, payload)`` for every event, before its handlers; for layers on top, such as the SDK."""
        self._handlers.tap = tap

    async def start(self) -> None:
        """Start the node and follow its events; does nothing while started.

        Does not wait for any dial. When it returns, handlers have received every event up to the start.
        """
        async with self._changing:
            if self.is_started():
                return
            following = self._following
            if following is None or not following.follower.alive:
                following = self._following = await self._follow()
            try:
                status = await self._start()
            except BaseException:
                self._following = None
                await self._end(following)
                raise
            self._view.learn(status)
        await self._delivered(following, status)

    async def stop(self) -> None:
        """Stop the node, unless it is shared, and stop following its events; does nothing unless started.

        When it returns, handlers have received every event up to the stop, and the thread has ended. Called by one of
        our own handlers, this happens after that handler.
        """
        async with self._changing:
            following, self._following = self._following, None
            if following is None:
                return
            try:
                status = await self._call(calls.status() if self._shared else calls.stop())
            except BaseException:
                await self._end(following)
                raise
            self._view.learn(status)
        if handling.get() is self:
            following.follower.close_when_delivered(status)
            return
        try:
            await self._delivered(following, status)
        finally:
            await self._end(following)

    def is_started(self) -> bool:
        """Whether the node is started, according to `start` or the newest event; False while the daemon is gone."""
        following = self._following
        return following is not None and following.follower.alive and self._view.started

    def get_status(self) -> Literal["started", "stopped"]:
        return "started" if self.is_started() else "stopped"

    async def connect(self, address: str, timeout: int | None = None) -> types.ConnectResult:
        """Connect to a peer; see `fabstir_client.client.Client.connect`."""
        return await self._call(calls.connect(address, timeout))

    async def disconnect(self, peer_id: str) -> types.DisconnectResult:
        """Close all connections to a peer. Raises `PeerNotFound` where there is none."""
        return await self._call(calls.disconnect(peer_id))

    async def get_peer_id(self) -> str:
        """The node's own peer id, even while it is stopped."""
        return (await self._call(calls.status())).peer_id

    async def get_connected_peers(self) -> list[str]:
        """The ids of the connected peers; none while the node is stopped."""
        try:
            return [peer.peer_id for peer in await self._call(calls.peers())]
        except NodeNotRunning:
            return []

    async def get_listen_addresses(self) -> list[str]:
        """The actual interface addresses and ports, with ``/p2p/<own id>``; empty while the node is stopped."""
        try:
            return (await self._call(calls.addresses())).listen
        except NodeNotRunning:
            return []

    async def get_detailed_status(self) -> types.Status:
        return await self._call(calls.status())

    async def get_p2p_metrics(self) -> types.Metrics:
        return await self._call(calls.metrics())

    async def get_registered_protocols(self) -> list[str]:
        """The protocols that the node handles."""
        return (await self._call(calls.version())).protocols

    async def _call(self, call: Call[T]) -> T:
        return await call_once(self._target, call)

    def _leases(self) -> list[Call[types.KeepResult]]:
        if not self._shared or self._config is None:
            return []
        return [calls.keep(address, "connection") for address in dict.fromkeys(self._config.bootstrap_nodes or ())]

    async def _start(self) -> types.Status:
        if self._shared:
            status = await self._call(calls.status())
            return status if status.connected else await self._call(calls.start(None))
        try:
            return await self._call(calls.start(self._config))
        except InvalidState as error:
            if not self._restart:
                raise
            logger.warning("the node runs with another configuration (%s); restarting it with ours", error)
        await self._call(calls.stop())
        return await self._call(calls.start(self._config))

    async def _follow(self) -> _Following:
        opened, ended = Signal(), Signal()
        deliver = delivering(self._handlers, self)
        following = _Following(Follower(self._target, self._view, deliver, opened, ended, self._leases()), ended)
        following.follower.start()
        try:
            subscribed = await opened.wait(OPENED_WITHIN)
            if following.follower.error is not None:
                raise following.follower.error
            if not subscribed:
                raise ConnectionLost(f"the daemon did not accept a subscription within {OPENED_WITHIN:g} s")
        except BaseException:
            await self._end(following)
            raise
        return following

    async def _delivered(self, following: _Following, status: types.Status) -> None:
        if handling.get() is self:
            return
        signal = Signal()
        if not following.follower.when_delivered(status, signal) and not await signal.wait(DELIVERED_WITHIN):
            logger.warning("handlers took more than %g s; no longer waiting for them", DELIVERED_WITHIN)

    async def _end(self, following: _Following) -> None:
        following.follower.close()
        if handling.get() is self:
            return
        with shielded():
            if await following.ended.wait(ENDED_WITHIN):
                following.follower.join(ENDED_WITHIN)
            else:
                logger.warning("a handler keeps the thread of the events alive")
