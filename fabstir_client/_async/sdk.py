"""`FabstirSDK` for trio and asyncio: the P2P part of the TypeScript SDK, on top of `P2PClient`."""

from __future__ import annotations

import logging
from typing import Any, Literal

from fabstir_client._async.concurrency import accepted, shielded
from fabstir_client._async.p2p import P2PClient
from fabstir_client._core import calls
from fabstir_client._core.discovery import StrPath
from fabstir_client._core.emitter import Handler, Handlers, check_mode, failure, handling
from fabstir_client.api import types
from fabstir_client.api.errors import FabstirError

logger = logging.getLogger("fabstir_client.p2p")


class FabstirSDK:
    """The P2P part of the TypeScript SDK's class of that name.

    ``mode`` is ``"production"``, which requires ``p2p_config`` (as `P2PClient` takes it), or ``"mock"``, in which P2P
    is disabled. With ``shared`` other programs use the node too, as in `P2PClient`. `connect` and `disconnect` never
    fail because of P2P: each failure is an ``error`` event with ``{type: "P2P_ERROR", error: {type, message, …}}``.

    Events: each of `P2PClient`'s as ``p2p:<event>``, ``p2p:started`` and ``p2p:stopped``, ``error``, ``connected`` and
    ``disconnected``.
    """

    def __init__(
        self,
        mode: str = "mock",
        p2p_config: calls.Config | None = None,
        *,
        api: str | None = None,
        data_dir: StrPath | None = None,
        token: str | None = None,
        shared: bool = False,
    ) -> None:
        check_mode(mode, p2p_config)
        self.mode = mode
        self._handlers = Handlers()
        self._p2p: P2PClient | None = None
        if mode == "production":
            self._p2p = P2PClient(p2p_config, api=api, data_dir=data_dir, token=token, shared=shared)
            self._p2p.tap(self._forward)
        self._shared = shared
        self._connected = False
        self._tried = False
        self._started_emitted = False

    async def __aenter__(self) -> FabstirSDK:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        with shielded():  # bounded: every wait in disconnect() is
            await self.disconnect()

    def on(self, event: str, handler: Handler) -> FabstirSDK:
        """Call ``handler`` with the data of each ``event`` from now on; it may be a coroutine function."""
        self._handlers.add(event, accepted(handler))
        return self

    def off(self, event: str, handler: Handler) -> FabstirSDK:
        """Undo an `on`."""
        self._handlers.remove(event, handler)
        return self

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called, and `disconnect` has not been since."""
        return self._connected

    async def connect(self) -> None:
        """Start P2P, in production mode. When it returns, ``p2p:started`` or ``error`` has been emitted."""
        if self._p2p is not None and not self._p2p.is_started():
            self._tried, self._started_emitted = True, False
            try:
                await self._p2p.start()
                if not self._started_emitted:  # the node was already running
                    status = await self._p2p.get_detailed_status()
                    payload = {"peerId": status.peer_id, "listenAddresses": status.listen_addresses}
                    await self._emit("p2p:started", payload)
            except FabstirError as error:
                await self._failed(failure(error))
        self._connected = True
        await self._emit("connected", {})

    async def disconnect(self) -> None:
        """Stop P2P. When it returns, ``p2p:stopped`` or ``error`` has been emitted if it was started."""
        if self._p2p is not None:
            started = self._p2p.is_started()
            try:
                await self._p2p.stop()
                if started and self._shared:  # the node goes on for other programs, without an event
                    await self._emit("p2p:stopped", {"peerId": await self._p2p.get_peer_id()})
            except FabstirError as error:
                await self._failed(failure(error))
        self._connected = False
        await self._emit("disconnected", {})

    def is_p2p_enabled(self) -> bool:
        return self._p2p is not None

    def is_p2p_connected(self) -> bool:
        """Whether the node is started, peers or not."""
        return self._p2p is not None and self._p2p.is_started()

    def get_p2p_status(self) -> Literal["disabled", "connected", "disconnected"]:
        """``"disabled"`` in mock mode and, as in the TypeScript SDK, before the first `connect`."""
        if self._p2p is None or not self._tried:
            return "disabled"
        return "connected" if self._p2p.is_started() else "disconnected"

    async def get_p2p_metrics(self) -> types.Metrics | None:
        """None while P2P is not started."""
        if self._p2p is None or not self._p2p.is_started():
            return None
        return await self._p2p.get_p2p_metrics()

    async def _forward(self, name: str, payload: Any) -> None:
        if name == "p2p:started":
            self._started_emitted = True
        await self._emit(name if name.startswith("p2p:") else f"p2p:{name}", payload)
        if name == "error":
            await self._failed(payload)

    async def _failed(self, error: Any) -> None:
        if not self._handlers.wants("error"):
            logger.warning("P2P failed, and nobody handles `error`: %s", error)
        await self._emit("error", {"type": "P2P_ERROR", "error": error})

    async def _emit(self, name: str, payload: Any) -> None:
        # Keep the P2PClient's own mark inside its handler: a disconnect() from here must not wait for itself
        await self._handlers.emit_async(handling.get() or self, name, payload)
