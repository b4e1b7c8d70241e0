"""Messages between bridge clients of two daemons: the TypeScript SDK's P2P client on a plain WebSocket.

A message is one JSON value on its own stream, `PROTOCOL`, framed as the Fabstir node frames its messages. The receiving
daemon pushes ``{"type": "p2p_message", "data": …}``, which is not JSON-RPC, to each of its bridge clients, and answers
how many there were. A WebSocket is a bridge client until it calls any other method.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import trio

from fabstir_client.api.errors import InvalidParams, InvalidState
from fabstir_client.api.streams import Framing
from fabstird.foreign import MAX_DEPTH, NotJson, decode_json, is_deep
from fabstird.log.logger import get_logger
from fabstird.p2p.node import Node
from fabstird.rpc.access import Grant
from fabstird.rpc.scope import BRIDGE_PROTOCOL

log = get_logger("bridge")

PROTOCOL = BRIDGE_PROTOCOL
FRAMING: Framing = "u32be"
METHODS = ("discover", "sendMessage", "getStatus")
DEADLINE = 10000  # ms for a peer's message to arrive
SEND_TIMEOUT = 25000  # ms; the SDK's client waits 30 s for any answer

Push = Callable[[bytes], None]


class Answer(msgspec.Struct, omit_defaults=True):
    """The answer to a message, as JSON."""

    delivered: int  # bridge clients that got it
    error: str | None = None


class _Called(msgspec.Struct):
    method: str


_called = msgspec.json.Decoder(_Called)


class Client:
    """A WebSocket that may be a bridge client."""

    def __init__(self, push: Push, grant: Grant, leave: Callable[[Client], None]) -> None:
        self.push = push
        self._scope = grant.scope
        self._leave = leave
        self._may_be = True

    def admits(self, peer_id: str) -> bool:
        """Whether it may get messages of the peer."""
        return self._scope.has_peer(peer_id)

    def heard(self, text: bytes) -> None:
        """The client has sent ``text``."""
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
    """The bridge. It takes the messages of every peer; `Client.admits` says which of them a client gets. A client's
    ``push`` writes a message at once, and raises where the connection has gone."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clients: dict[Client, None] = {}

    @asynccontextmanager
    async def running(self, enabled: bool) -> AsyncIterator[None]:
        """Take peers' messages, if the bridge is enabled."""
        if not enabled:
            yield
            return
        async with trio.open_nursery() as nursery:
            self._node.fence.spawn(nursery, "bridge", self._run)
            yield
            nursery.cancel_scope.cancel()

    @contextmanager
    def client(self, push: Push, grant: Grant) -> Iterator[Client]:
        """Register a WebSocket while it is open. Without access to any of the bridge's methods, or to the bridge's
        protocol, it gets no messages."""
        client = Client(push, grant, self._leave)
        methods = grant.methods
        if (methods is None or not methods.isdisjoint(METHODS)) and grant.scope.has_protocol(PROTOCOL):
            self._clients[client] = None
        try:
            yield client
        finally:
            self._leave(client)

    def _leave(self, client: Client) -> None:
        self._clients.pop(client, None)

    # ----------------------------------------------------------------------------------------------------------------

    async def send(self, peer_id: str, message: Any) -> int:
        """Send a message to a peer's daemon; returns how many clients it was pushed to, at least one. Raises
        `InvalidState`, `InvalidParams` for a message that is nested too deeply, and as `Node.run` and `Run.request`
        do."""
        data = _encoded(message)
        timeout = min(SEND_TIMEOUT, self._node.settings.request_timeout)
        reply = await self._node.run().request(peer_id, PROTOCOL, data, FRAMING, timeout)
        try:
            answer = msgspec.json.decode(reply.data, type=Answer)
        except msgspec.MsgspecError as error:
            raise InvalidState(f"{peer_id} gave an answer that cannot be understood", peerId=peer_id) from error
        if answer.error is not None or answer.delivered < 1:
            why = (answer.error or "no bridge client is connected to it")[:200]
            raise InvalidState(f"{peer_id} did not deliver the message: {why}", peerId=peer_id)
        return answer.delivered

    async def _run(self) -> None:
        (await self._node.shared()).protocols.answer(PROTOCOL, FRAMING, DEADLINE, self._reply)

    def _reply(self, peer_id: str, data: bytes) -> bytes:
        """Push a peer's message to the clients, and make the answer."""
        answer = self._deliver(peer_id, data)
        log.debug("message of a peer", peer_id=peer_id, delivered=answer.delivered, error=answer.error)
        return msgspec.json.encode(answer)

    def _deliver(self, peer_id: str, data: bytes) -> Answer:
        try:
            message = decode_json(data)
        except NotJson as error:
            return Answer(0, f"the message is refused: {error}")
        content = dict(message) if isinstance(message, dict) else {"type": "message", "payload": message}
        content["from"] = peer_id  # the sender is the peer that Noise has proven, not what the message says
        content.setdefault("timestamp", int(time.time() * 1000))
        pushed = msgspec.json.encode({"type": "p2p_message", "data": content})
        clients = [client for client in self._clients if client.admits(peer_id)]
        return Answer(sum(self._pushed(client, pushed) for client in clients))

    def _pushed(self, client: Client, message: bytes) -> bool:
        try:
            client.push(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._leave(client)  # its reader notices too, and ends the session
            return False
        return True


def _encoded(message: Any) -> bytes:
    """The message as bytes. Raises `InvalidParams` where the other daemon would refuse it."""
    try:
        encoded = msgspec.json.encode(message)
    except RecursionError:
        encoded = None
    if encoded is None or is_deep(encoded):
        raise InvalidParams(f"message: is nested more than {MAX_DEPTH} levels deep", param="message")
    return encoded
