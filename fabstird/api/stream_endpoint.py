"""``GET /stream`` turns a connection to the HTTP endpoint into a stream: plain bytes with ``Upgrade: fabstir-stream``,
binary messages with ``Upgrade: websocket``. It calls the methods that open or accept a stream, so the same rights,
limits, counts and audit apply."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
import trio

from fabstir_client.api.errors import InvalidParams
from fabstird.api.guard import Scope, offered
from fabstird.api.guard import caller as caller_of
from fabstird.api.local_websocket import LocalWebSocket
from fabstird.api.sockets import Outbox
from fabstird.api.websocket_frames import TEXT, frame, switching
from fabstird.p2p.streams.local_socket import LocalSocket
from fabstird.rpc.access import Grant
from fabstird.rpc.calls import Takeover
from fabstird.rpc.dispatch import Call, Dispatcher
from fabstird.rpc.services import Services

if TYPE_CHECKING:
    from fabstird.p2p.streams.ledger import Stream

LOOK = 0.5  # seconds between two checks whether a client that waits for its stream is still connected
STATUS = {
    "INVALID_PARAMS": HTTPStatus.BAD_REQUEST,
    "FORBIDDEN": HTTPStatus.FORBIDDEN,
    "PEER_NOT_FOUND": HTTPStatus.NOT_FOUND,
    "INVALID_STATE": HTTPStatus.CONFLICT,
    "LIMIT_EXCEEDED": HTTPStatus.TOO_MANY_REQUESTS,
    "NODE_NOT_RUNNING": HTTPStatus.SERVICE_UNAVAILABLE,
    "DIAL_FAILED": HTTPStatus.BAD_GATEWAY,
    "STREAM_FAILED": HTTPStatus.BAD_GATEWAY,
    "TIMEOUT": HTTPStatus.GATEWAY_TIMEOUT,
}
JSON = b"application/json"


class StreamEndpoint:
    """An ASGI application for requests to ``/stream``. The scope's ``state`` holds ``upgrade``, the upgrade that the
    request asks for, and ``leave``, by which the connection leaves HTTP (`Connection.leave`)."""

    def __init__(self, services: Services, dispatcher: Dispatcher) -> None:
        self._services = services
        self._dispatcher = dispatcher

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        upgrade = scope["state"].get("upgrade", b"").lower()
        if scope["method"] != "GET":
            await _refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, "only GET opens a stream", (b"allow", b"GET"))
            return
        if upgrade not in (b"websocket", b"fabstir-stream"):
            words = "a stream needs Upgrade: fabstir-stream, or a WebSocket"
            await _refuse(send, HTTPStatus.UPGRADE_REQUIRED, words, (b"upgrade", b"fabstir-stream, websocket"))
            return
        key = b""
        if upgrade == b"websocket" and not (key := _websocket_key(scope)):
            words = "not a WebSocket handshake of version 13"
            await _refuse(send, HTTPStatus.BAD_REQUEST, words, (b"sec-websocket-version", b"13"))
            return
        caller = caller_of("http", scope)
        call = Call(self._services, caller, takeover=Takeover())
        assert call.takeover is not None
        try:
            answer = await self._called(scope, call)
        except InvalidParams as error:
            answer = {"error": error.to_error_object()}
        stream = call.takeover.stream
        if stream is None:
            if answer is not None:
                status = STATUS.get(answer["error"]["data"]["code"], HTTPStatus.INTERNAL_SERVER_ERROR)
                await _respond(send, status, msgspec.json.encode({"error": answer["error"]}))
            return
        assert answer is not None
        successor = partial(self._serve, caller.grant, stream, _head(scope, answer["result"], key), bool(key))
        try:
            await scope["state"]["leave"](successor, stream=True)
        except BaseException:
            await stream.drop("reset")
            raise

    async def _called(self, scope: Scope, call: Call) -> dict[str, Any] | None:
        """The answer to the call; None where the client has gone. Raises `InvalidParams`."""
        method, params = _asked(scope["query_string"])
        text = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        with trio.CancelScope() as waiting:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._while_there, scope, waiting)
                answered = await self._dispatcher.dispatch(text, call)
                nursery.cancel_scope.cancel()
            assert answered is not None
            answer: dict[str, Any] = msgspec.json.decode(answered)
            return answer
        return None

    async def _while_there(self, scope: Scope, waiting: trio.CancelScope) -> None:
        while True:
            await trio.sleep(LOOK)
            if scope["state"]["outbox"].gone(half_closed=False):
                waiting.cancel()

    async def _serve(
        self, grant: Grant, stream: Stream, head: bytes, messages: bool, sock: trio.socket.SocketType, first: bytes
    ) -> None:
        """Serve the stream on a connection that has left HTTP: as WebSocket ``messages``, or as plain bytes."""
        try:
            await _sent(sock, head)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_while_allowed, grant, stream)
                if messages:
                    websocket = LocalWebSocket(sock, first)
                    nursery.start_soon(_ping, websocket, self._services.config.api.ping_interval / 1000)
                    try:
                        await stream.join(websocket)
                    finally:
                        await websocket.goodbye()
                else:
                    await stream.join(LocalSocket(sock), first)
                nursery.cancel_scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        finally:
            await stream.drop("reset")  # if it was never served


def _head(scope: Scope, result: dict[str, Any], key: bytes) -> bytes:
    """The response by which a connection becomes a stream, and with a WebSocket's ``key`` its first message."""
    if key:
        lines = switching(key, offered(scope).chosen)
    else:
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: fabstir-stream"]
    lines += [
        b"Fabstir-Stream-Id: " + result["streamId"].encode(),
        b"Fabstir-Peer-Id: " + result["peerId"].encode(),
        b"Fabstir-Protocol: " + result["protocol"].encode(),
    ]
    message = frame(TEXT, msgspec.json.encode(result)) if key else b""
    return b"\r\n".join(lines) + b"\r\n\r\n" + message


async def _sent(sock: trio.socket.SocketType, data: bytes) -> None:
    outbox = Outbox(sock)
    outbox.write(data)
    if not outbox.clear:
        await outbox.flush()


async def _ping(websocket: LocalWebSocket, interval: float) -> None:
    """Keep the connection from being idle, since proxies cut idle ones."""
    try:
        while True:
            await trio.sleep(interval)
            websocket.ping()
    except OSError:
        pass  # it has gone, which its reader notices


async def _while_allowed(grant: Grant, stream: Stream) -> None:
    await grant.wait_ended()
    await stream.drop("reset")


def _asked(query: bytes) -> tuple[str, dict[str, Any]]:
    """The method that the query stands for, and its parameters. Raises `InvalidParams`."""
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    for name, values in given.items():
        if name not in ("peerId", "protocol", "streamId", "timeout"):
            raise InvalidParams(f'Invalid params: unknown parameter "{name[:64]}"', param=name[:64])
        if len(values) > 1 and name != "protocol":
            raise InvalidParams(f"Invalid params: {name} is given twice", param=name)
    if "streamId" in given:
        if len(given) > 1:
            raise InvalidParams("Invalid params: streamId cannot be combined with other parameters", param="streamId")
        return "stream.accept", {"streamId": given["streamId"][0]}
    params: dict[str, Any] = {name: values if name == "protocol" else values[0] for name, values in given.items()}
    if "timeout" in params:
        if not params["timeout"].isdecimal() or len(params["timeout"]) > 16:
            raise InvalidParams("Invalid params: timeout: must be a number of milliseconds", param="timeout")
        params["timeout"] = int(params["timeout"])
    return "stream.open", params


def _websocket_key(scope: Scope) -> bytes:
    """The key of a WebSocket handshake; empty where there is no valid one."""
    keys = [value for name, value in scope["headers"] if name.lower() == b"sec-websocket-key"]
    versions = [value.strip() for name, value in scope["headers"] if name.lower() == b"sec-websocket-version"]
    if len(keys) != 1 or versions != [b"13"]:
        return b""
    try:
        return keys[0].strip() if len(base64.b64decode(keys[0].strip(), validate=True)) == 16 else b""
    except binascii.Error:
        return b""


async def _refuse(send: Any, status: HTTPStatus, words: str, *headers: tuple[bytes, bytes]) -> None:
    error = InvalidParams(words) if status is HTTPStatus.BAD_REQUEST else InvalidParams(f"{status.phrase}: {words}")
    await _respond(send, status, msgspec.json.encode({"error": error.to_error_object()}), *headers)


async def _respond(send: Any, status: HTTPStatus, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    about = [(b"content-type", JSON), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status.value, "headers": about})
    await send({"type": "http.response.body", "body": body})
