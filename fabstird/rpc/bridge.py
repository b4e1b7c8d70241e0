"""Messages between the bridge clients of two daemons: the TypeScript SDK's P2P client on a bare WebSocket.

A message is one JSON value on a stream of its own, `PROTOCOL`, framed as the Fabstir node frames its own. The daemon
that gets it pushes ``{"type": "p2p_message", "data": …}``, which is not JSON-RPC, to each of its bridge clients, and
answers how many there were. A WebSocket is a bridge client's until it calls anything but the bridge's methods.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from fabstir_client.errors import InvalidState
from fabstir_client.types_streams import Framing, StreamRequest
from fabstird.events import EventLog, Gap
from fabstird.log import get_logger
from fabstird.p2p.node import Node

if TYPE_CHECKING:
    from fabstird.p2p.streams import Protocols

log = get_logger("bridge")

PROTOCOL = "/fabstird/message/1.0.0"
FRAMING: Framing = "u32be"
METHODS = ("discover", "sendMessage", "getStatus")
DEADLINE = 10000  # ms that a peer's message may take
SEND_TIMEOUT = 25000  # ms; the SDK's client waits 30 s for any answer

Push = Callable[[bytes], None]


class Answer(msgspec.Struct, omit_defaults=True):
    """To a message, as JSON."""

    delivered: int  # bridge clients that it was pushed to
    error: str | None = None


class _Called(msgspec.Struct):
    method: str


_called = msgspec.json.Decoder(_Called)


class Client:
    """A WebSocket that may be a bridge client's."""

    def __init__(self, push: Push, leave: Callable[[Client], None]) -> None:
        self.push = push
        self._leave = leave
        self._may_be = True

    def heard(self, text: bytes) -> None:
        """The client has sent this."""
        if not self._may_be:
            return
        try:
            method = _called.decode(text).method
        except (msgspec.MsgspecError, RecursionError):
            method = ""
        if method not in METHODS:
            self._may_be = False
            self._leave(self)


class Bridge:
    """``push`` of a client writes a message at once, and raises where the connection is gone."""

    def __init__(self, node: Node, events: EventLog) -> None:
        self._node = node
        self._events = events
        self._clients: dict[Client, None] = {}

    @asynccontextmanager
    async def running(self, enabled: bool) -> AsyncIterator[None]:
        """Take peers' messages, where the bridge is switched on."""
        if not enabled:
            yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, nursery)
            yield
            nursery.cancel_scope.cancel()

    @contextmanager
    def client(self, push: Push) -> Iterator[Client]:
        """For as long as a WebSocket is open."""
        client = Client(push, self._leave)
        self._clients[client] = None
        try:
            yield client
        finally:
            self._leave(client)

    def _leave(self, client: Client) -> None:
        self._clients.pop(client, None)

    # ----------------------------------------------------------------------------------------------------------------

    async def send(self, peer_id: str, message: Any) -> int:
        """How many clients of the peer's daemon it was pushed to, one at least. Raises `InvalidState`, and as
        `Node.request` does."""
        data = base64.b64encode(msgspec.json.encode(message)).decode()
        timeout = min(SEND_TIMEOUT, self._node.settings.request_timeout)
        result = await self._node.request(peer_id, PROTOCOL, data, FRAMING, timeout)
        try:
            answer = msgspec.json.decode(base64.b64decode(result.data), type=Answer)
        except msgspec.MsgspecError as error:
            raise InvalidState(f"{peer_id} answered with what is no answer to a message", peerId=peer_id) from error
        if answer.error is not None or answer.delivered < 1:
            why = (answer.error or "no bridge client is connected to it")[:200]
            raise InvalidState(f"{peer_id} did not deliver the message: {why}", peerId=peer_id)
        return answer.delivered

    async def _run(self, nursery: trio.Nursery) -> None:
        after = self._events.head
        protocols = await self._node.protocols_of_users()
        protocols.handle(PROTOCOL, FRAMING, DEADLINE, self)
        while True:
            await self._events.wait_beyond(after)
            for item in self._events.read(after):
                if isinstance(item, Gap):
                    after = item.resume - 1
                    continue
                after = item.seq
                if isinstance(item.data, StreamRequest) and item.data.protocol == PROTOCOL:
                    nursery.start_soon(self._take, protocols, item.data)

    async def _take(self, protocols: Protocols, request: StreamRequest) -> None:
        try:
            data = base64.b64decode(protocols.read(request.request_id).data)
            answer = self._deliver(request.peer_id, data)
            await protocols.respond(request.request_id, msgspec.json.encode(answer))
        except InvalidState as error:
            log.debug("a peer did not wait for the answer to its message", peer_id=request.peer_id, reason=str(error))

    def _deliver(self, peer_id: str, data: bytes) -> Answer:
        try:
            message = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Answer(0, "the message is not JSON")
        told = dict(message) if isinstance(message, dict) else {"type": "message", "payload": message}
        told["from"] = peer_id  # who it is from is what Noise has shown, not what the message says
        told.setdefault("timestamp", int(time.time() * 1000))
        pushed = msgspec.json.encode({"type": "p2p_message", "data": told})
        return Answer(sum(self._pushed(client, pushed) for client in list(self._clients)))

    def _pushed(self, client: Client, message: bytes) -> bool:
        try:
            client.push(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._leave(client)  # its reader sees that too, and ends the session
            return False
        return True
