"""The daemons that the tests of the API share, and one way to ask them over any transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fabstir_client.api import errors
from tests.harness import Connection, Json, Process, ipc, post, ws

STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
TRANSPORTS = ["ipc", "http", "ws"]
STREAMS = ["ipc", "ws"]
STATUS = "state connected peerId connections peers bootstrapNodes listenAddresses version epoch head"
Ask = Callable[[Any], Awaitable[Any]]


# --------------------------------------------------------------------------------------------------------------------
# One way to ask over any transport


@asynccontextmanager
async def asking(running: Process, transport: str) -> AsyncIterator[Ask]:
    """A function that sends one text and gives its answer."""
    if transport == "http":

        async def over_http(message: Any) -> Any:
            reply = await post(running, message)
            assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply
            return reply.json

        yield over_http
        return
    async with connecting(running, transport) as connection:

        async def over_stream(message: Any) -> Any:
            await connection.send(message)
            return await connection.receive()

        yield over_stream


@asynccontextmanager
async def connecting(running: Process, transport: str) -> AsyncIterator[Connection]:
    async with {"ipc": ipc, "ws": ws}[transport](running) as connection:
        yield connection


def request(method: str, params: Any = None) -> Json:
    return {"jsonrpc": "2.0", "id": "x", "method": method, **({} if params is None else {"params": params})}


async def result(ask: Ask, method: str, params: Any = None) -> Any:
    answer = await ask(request(method, params))
    assert answer.keys() == {"jsonrpc", "result", "id"}, answer
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", "x")
    return answer["result"]


async def error(ask: Ask, method: str, params: Any = None) -> errors.RpcError:
    """The error as the client would raise it; its object must be of the contract's form."""
    answer = await ask(request(method, params))
    assert answer.keys() == {"jsonrpc", "error", "id"}, answer
    found = errors.from_error_object(answer["error"])
    assert type(found) is not errors.RpcError, f"no code of the contract: {answer}"
    assert answer["error"] == found.to_error_object()
    return found


def held(value: Any, kind: Any) -> Any:
    """`value` decoded as `kind`; a field that is missing, of another type or not documented is an error."""
    decoded = msgspec.convert(value, kind)
    assert msgspec.to_builtins(decoded) == value
    return decoded


def keys(found: Json, required: str, optional: str = "") -> None:
    """The fields are exactly those that the contract lists."""
    assert set(required.split()) <= set(found) <= set(required.split()) | set(optional.split())
