"""``GET /ws``: turns a connection to the HTTP endpoint into a WebSocket for calls and events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from fabstird.api.fanout import Fanout
from fabstird.api.guard import Scope, offered
from fabstird.api.guard import caller as caller_of
from fabstird.api.session import Session
from fabstird.api.sockets import Outbox
from fabstird.api.watch import GOING_AWAY, Watch
from fabstird.api.websocket import WebSocket
from fabstird.api.websocket_frames import switching
from fabstird.api.wire_format import frames
from fabstird.log.logger import get_logger
from fabstird.rpc.access import Caller
from fabstird.rpc.bridge import Client
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.services import Services

log = get_logger("api.http")

INTERNAL_ERROR = 1011  # a close code, RFC 6455


class WebSockets:
    """An application for valid handshakes that the guard has let through. The connection leaves HTTP, and its task then
    serves the WebSocket and keeps nothing of the request."""

    def __init__(self, services: Services, dispatcher: Dispatcher, fanout: Fanout, watch: Watch) -> None:
        self._services = services
        self._dispatcher = dispatcher
        self._fanout = fanout
        self._watch = watch

    async def __call__(self, scope: Scope) -> None:
        key = next(value for name, value in scope["headers"] if name == b"sec-websocket-key")
        head = b"\r\n".join([*switching(key, offered(scope).chosen), b"", b""])
        await scope["state"]["leave"](partial(self._serve, caller_of("ws", scope), head))

    async def _serve(self, caller: Caller, head: bytes, sock: trio.socket.SocketType, first: bytes) -> None:
        """Serve one WebSocket until its client or the daemon ends it; the close frame says why (trap 6)."""
        api = self._services.config.api
        outbox = Outbox(sock, api.max_send_queue_bytes, api.send_timeout / 1000, self._services.usage.unsent)
        arriving = self._services.usage.arrival(caller.identity)
        websocket = WebSocket(sock, outbox, api.max_request_bytes, arriving)
        conversation = _Conversation(websocket)
        try:
            try:
                await self._converse(caller, conversation, outbox, head, first)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client has gone, or does not read
            except* Exception:
                log.exception("a WebSocket failed")
                conversation.code, conversation.reason = INTERNAL_ERROR, "internal error"
            await _close(websocket, conversation.code, conversation.reason)
        finally:
            arriving.leave()
            outbox.forget()

    async def _converse(
        self, caller: Caller, conversation: _Conversation, outbox: Outbox, head: bytes, first: bytes
    ) -> None:
        """Answer the handshake, then serve calls. The answer is sent only once everything is set up, so a call right
        behind the handshake does not wait."""
        services = self._services
        async with Session.open(services, self._dispatcher, caller, outbox, frames, self._fanout) as session:
            with services.bridge.client(partial(_push, outbox), caller.grant) as bridged:
                conversation.session, conversation.bridged = session, bridged
                with self._watch.over(conversation, caller.grant):
                    outbox.write(head)
                    await conversation.websocket.read(first, conversation)


class _Conversation:
    """Passes the messages of a WebSocket to its session and to the bridge. ``code`` and ``reason`` are for the close
    frame if the daemon ends it; ``code`` is 0 if the client does."""

    __slots__ = ("bridged", "code", "reason", "session", "websocket")

    session: Session
    bridged: Client

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.code = 0
        self.reason = ""

    def at_once(self, message: bytes) -> bool:
        if not self.session.answered(message):
            return False  # it comes again in `receive`
        self.bridged.heard(message)
        return True

    async def receive(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self.bridged.heard(message)
        await self.session.receive(messages)

    def ping(self) -> None:
        self.websocket.ping()

    def end(self, code: int, why: str) -> None:
        self.code, self.reason = code, why
        self.session.end()


def _push(outbox: Outbox, message: bytes) -> None:
    outbox.write(frames([message]))


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close the WebSocket with a code and a reason, unless the client has closed it. When the daemon stops, the client
    is given no time to read them."""
    try:
        if code:
            websocket.end(code, reason)
        if websocket.ended:
            await websocket.leave(linger=code not in (0, GOING_AWAY))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has gone
