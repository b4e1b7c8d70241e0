"""`P2PClient` for trio and asyncio: the class of the TypeScript SDK, on top of the daemon.

Nobody lends it a task group, so events are followed by a thread of its own (`follower`), which hands each to the
event loop that called ``start()``. Every call has a short connection to itself: any number may run at a time, and a
cancelled one leaves nothing behind.
"""

from __future__ import annotations

import concurrent.futures
import logging
import socket
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

from fabstir_client import calls, types
from fabstir_client.discovery import StrPath, Target
from fabstir_client.emitter import Handler, Handlers, Tap, handling
from fabstir_client.errors import ConnectionLost, InvalidState, NodeNotRunning
from fabstir_client.follower import DELIVERED_WITHIN, ENDED_WITHIN, OPENED_WITHIN, Follower, NodeView
from fabstir_client.link import call_once
from fabstir_client.protocol import Call, T

logger = logging.getLogger("fabstir_client.p2p")


class _LoopSignal:
    """Set by a thread, waited for in an event loop: a pair of sockets, one of which is closed.

    So the thread never waits for the loop, which may have ended without a word.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()

    def set(self) -> None:
        self._write.close()

    async def wait(self, seconds: float) -> bool:
        """Whether it was set within ``seconds``."""
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(self._read)
            return True
        return False

    def __del__(self) -> None:
        self._read.close()
        self._write.close()


@dataclass(frozen=True, slots=True)
class _Following:
    follower: Follower
    ended: _LoopSignal


class P2PClient:
    """The daemon's node, under the names of the TypeScript SDK.

    ``config`` has the SDK's keys, in camelCase or snake_case (``bootstrapNodes``, ``listenAddresses``, ``enableDHT``,
    ``enableMDNS``, ``dialTimeout``, ``requestTimeout``, ``maxRetries``, ``retryDelay``); what it leaves out comes from
    the daemon's own configuration. `InvalidConfig` for any other key, or a value of a wrong type.

    The node is the daemon's, and there is one: ``stop()`` stops it for everybody. Where it runs already with another
    configuration, ``start()`` restarts it with this one, or with ``restart=False`` raises `InvalidState`.

    ``api``, ``data_dir`` and ``token`` are those of `fabstir_client.connect`.
    """

    def __init__(
        self,
        config: calls.Config | None = None,
        *,
        api: str | None = None,
        data_dir: StrPath | None = None,
        token: str | None = None,
        restart: bool = True,
    ) -> None:
        self._config = calls.overrides(config)
        self._target = Target(api, data_dir, token)
        self._restart = restart
        self._handlers = Handlers()
        self._view = NodeView()
        self._following: _Following | None = None
        self._changing: anyio.Lock | None = None

    async def __aenter__(self) -> P2PClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):  # bounded: every wait in stop() is
            await self.stop()

    def on(self, event: str, handler: Handler) -> P2PClient:
        """Call ``handler`` with the data of each ``event`` from now on; it may be a coroutine function.

        ``peer:connect`` and ``peer:disconnect`` hand the bare peer id, the others a dict with the wire's names. Besides
        the events of the daemon there is ``lagged`` (``{missed, resume}``), where some were missed, and ``error`` also
        tells that the daemon was lost (``{type: "CONNECTION_LOST", message}``). What a handler raises is logged.
        """
        self._handlers.add(event, handler)
        return self

    def off(self, event: str, handler: Handler) -> P2PClient:
        """Take back an `on`."""
        self._handlers.remove(event, handler)
        return self

    def tap(self, tap: Tap) -> None:
        """Call ``tap(event, payload)`` for every event, before its handlers; for what is built on top, like the SDK."""
        self._handlers.tap = tap

    async def start(self) -> None:
        """Start the node and follow its events; does nothing while it is started.

        Does not wait for any dial. When it returns, handlers have been told of everything up to the start.
        """
        async with self._lock():
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
        """Stop the node, and follow its events no more; does nothing without a `start`.

        When it returns, handlers have been told of everything up to the stop, and the thread is gone; called by one of
        our own handlers, this happens after that handler.
        """
        async with self._lock():
            following, self._following = self._following, None
            if following is None:
                return
            try:
                status = await self._call(calls.stop())
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
        """Whether the node is started, by what `start` or the newest event said; False while the daemon is gone."""
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
        """The node's own peer id, also while it is stopped."""
        return (await self._call(calls.status())).peer_id

    async def get_connected_peers(self) -> list[str]:
        """The ids of the connected peers; none while the node is stopped."""
        try:
            return [peer.peer_id for peer in await self._call(calls.peers())]
        except NodeNotRunning:
            return []

    async def get_listen_addresses(self) -> list[str]:
        """Real interface addresses and ports, with ``/p2p/<own id>``; none while the node is stopped."""
        try:
            return (await self._call(calls.addresses())).listen
        except NodeNotRunning:
            return []

    async def get_detailed_status(self) -> types.Status:
        return await self._call(calls.status())

    async def get_p2p_metrics(self) -> types.Metrics:
        return await self._call(calls.metrics())

    async def get_registered_protocols(self) -> list[str]:
        """The protocols that the node answers."""
        return (await self._call(calls.version())).protocols

    def _lock(self) -> anyio.Lock:
        # Made late: the class may be constructed before any event loop runs.
        if self._changing is None:
            self._changing = anyio.Lock()
        return self._changing

    async def _call(self, call: Call[T]) -> T:
        return await call_once(self._target, call)

    async def _start(self) -> types.Status:
        try:
            return await self._call(calls.start(self._config))
        except InvalidState as error:
            if not self._restart:
                raise
            logger.warning("the node runs with another configuration (%s); restarting it with ours", error)
        await self._call(calls.stop())
        return await self._call(calls.start(self._config))

    async def _follow(self) -> _Following:
        opened, ended, token = _LoopSignal(), _LoopSignal(), current_token()

        def deliver(name: str, payload: Any) -> bool:
            if not self._handlers.wants(name):
                return True
            try:
                anyio.from_thread.run(self._handlers.emit_async, self, name, payload, token=token)
            except (anyio.RunFinishedError, concurrent.futures.CancelledError, RuntimeError):
                return False  # the loop is over
            except BaseException:  # noqa: BLE001 - trio's Cancelled, which cannot be named here: the loop is ending
                return False
            return True

        following = _Following(Follower(self._target, self._view, deliver, opened, ended), ended)
        following.follower.start()
        try:
            stands = await opened.wait(OPENED_WITHIN)
            if following.follower.error is not None:
                raise following.follower.error
            if not stands:
                raise ConnectionLost(f"the daemon did not take a subscription within {OPENED_WITHIN:g} s")
        except BaseException:
            await self._end(following)
            raise
        return following

    async def _delivered(self, following: _Following, status: types.Status) -> None:
        if handling.get() is self:
            return
        signal = _LoopSignal()
        if not following.follower.when_delivered(status, signal) and not await signal.wait(DELIVERED_WITHIN):
            logger.warning("handlers took more than %g s; no longer waiting for them", DELIVERED_WITHIN)

    async def _end(self, following: _Following) -> None:
        following.follower.close()
        if handling.get() is self:
            return
        with anyio.CancelScope(shield=True):
            if await following.ended.wait(ENDED_WITHIN):
                following.follower.join(ENDED_WITHIN)
            else:
                logger.warning("a handler keeps the thread of the events alive")
