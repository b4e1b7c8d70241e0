"""`P2PClient` for programs without an event loop: the twin of `p2p`.

Handlers run in the thread that follows the events, one after the other.
"""

from __future__ import annotations

import inspect
import logging
import threading
from dataclasses import dataclass
from typing import Any, Literal

from fabstir_client import calls, types
from fabstir_client.discovery import StrPath, Target
from fabstir_client.emitter import Handler, Handlers, Tap, handling
from fabstir_client.errors import ConnectionLost, InvalidState, NodeNotRunning
from fabstir_client.follower import DELIVERED_WITHIN, ENDED_WITHIN, OPENED_WITHIN, Follower, NodeView
from fabstir_client.protocol import Call, T
from fabstir_client.sync_link import call_once

logger = logging.getLogger("fabstir_client.p2p")


@dataclass(frozen=True, slots=True)
class _Following:
    follower: Follower
    ended: threading.Event


class P2PClient:
    """`fabstir_client.P2PClient`, blocking. May be used from several threads."""

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
        self._changing = threading.RLock()

    def __enter__(self) -> P2PClient:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def on(self, event: str, handler: Handler) -> P2PClient:
        """Call ``handler`` with the data of each ``event`` from now on, in the thread of the events."""
        self._handlers.add(event, plain(handler))
        return self

    def off(self, event: str, handler: Handler) -> P2PClient:
        """Take back an `on`."""
        self._handlers.remove(event, handler)
        return self

    def tap(self, tap: Tap) -> None:
        """Call ``tap(event, payload)`` for every event, before its handlers."""
        self._handlers.tap = tap

    def start(self) -> None:
        """Start the node and follow its events; does nothing while it is started.

        Does not wait for any dial. When it returns, handlers have been told of everything up to the start.
        """
        with self._changing:
            if self.is_started():
                return
            following = self._following
            if following is None or not following.follower.alive:
                following = self._following = self._follow()
            try:
                status = self._start()
            except BaseException:
                self._following = None
                self._end(following)
                raise
            self._view.learn(status)
        self._delivered(following, status)

    def stop(self) -> None:
        """Stop the node, and follow its events no more; does nothing without a `start`.

        When it returns, handlers have been told of everything up to the stop, and the thread is gone; called by one of
        our own handlers, this happens after that handler.
        """
        with self._changing:
            following, self._following = self._following, None
            if following is None:
                return
            try:
                status = self._call(calls.stop())
            except BaseException:
                self._end(following)
                raise
            self._view.learn(status)
        if handling.get() is self:
            following.follower.close_when_delivered(status)
            return
        try:
            self._delivered(following, status)
        finally:
            self._end(following)

    def is_started(self) -> bool:
        """Whether the node is started, by what `start` or the newest event said; False while the daemon is gone."""
        following = self._following
        return following is not None and following.follower.alive and self._view.started

    def get_status(self) -> Literal["started", "stopped"]:
        return "started" if self.is_started() else "stopped"

    def connect(self, address: str, timeout: int | None = None) -> types.ConnectResult:
        """Connect to a peer; see `fabstir_client.client.Client.connect`."""
        return self._call(calls.connect(address, timeout))

    def disconnect(self, peer_id: str) -> types.DisconnectResult:
        """Close all connections to a peer. Raises `PeerNotFound` where there is none."""
        return self._call(calls.disconnect(peer_id))

    def get_peer_id(self) -> str:
        """The node's own peer id, also while it is stopped."""
        return self._call(calls.status()).peer_id

    def get_connected_peers(self) -> list[str]:
        """The ids of the connected peers; none while the node is stopped."""
        try:
            return [peer.peer_id for peer in self._call(calls.peers())]
        except NodeNotRunning:
            return []

    def get_listen_addresses(self) -> list[str]:
        """Real interface addresses and ports, with ``/p2p/<own id>``; none while the node is stopped."""
        try:
            return self._call(calls.addresses()).listen
        except NodeNotRunning:
            return []

    def get_detailed_status(self) -> types.Status:
        return self._call(calls.status())

    def get_p2p_metrics(self) -> types.Metrics:
        return self._call(calls.metrics())

    def get_registered_protocols(self) -> list[str]:
        """The protocols that the node answers."""
        return self._call(calls.version()).protocols

    def _call(self, call: Call[T]) -> T:
        return call_once(self._target, call)

    def _start(self) -> types.Status:
        try:
            return self._call(calls.start(self._config))
        except InvalidState as error:
            if not self._restart:
                raise
            logger.warning("the node runs with another configuration (%s); restarting it with ours", error)
        self._call(calls.stop())
        return self._call(calls.start(self._config))

    def _follow(self) -> _Following:
        def deliver(name: str, payload: Any) -> bool:
            self._handlers.emit(self, name, payload)
            return True

        opened, ended = threading.Event(), threading.Event()
        following = _Following(Follower(self._target, self._view, deliver, opened, ended), ended)
        following.follower.start()
        try:
            stands = opened.wait(OPENED_WITHIN)
            if following.follower.error is not None:
                raise following.follower.error
            if not stands:
                raise ConnectionLost(f"the daemon did not take a subscription within {OPENED_WITHIN:g} s")
        except BaseException:
            self._end(following)
            raise
        return following

    def _delivered(self, following: _Following, status: types.Status) -> None:
        if handling.get() is self:
            return
        signal = threading.Event()
        if not following.follower.when_delivered(status, signal) and not signal.wait(DELIVERED_WITHIN):
            logger.warning("handlers took more than %g s; no longer waiting for them", DELIVERED_WITHIN)

    def _end(self, following: _Following) -> None:
        following.follower.close()
        if handling.get() is self:
            return
        if following.ended.wait(ENDED_WITHIN):
            following.follower.join(ENDED_WITHIN)
        else:
            logger.warning("a handler keeps the thread of the events alive")


def plain(handler: Handler) -> Handler:
    """``handler``, if it is one that a thread can run. Raises `TypeError`."""
    if inspect.iscoroutinefunction(handler):
        raise TypeError("a coroutine function cannot be a handler here; use fabstir_client.P2PClient in an event loop")
    return handler
