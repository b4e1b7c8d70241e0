"""What tests of limits look at: bounds as the daemon counts them, and calls that last until their callers go."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.functional.asking import STRANGER
from tests.harness import Connection, Json

WITHIN = 60  # seconds; a bound, never a wait


def message(method: str, params: Any = None, number: int = 1) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": method, **({} if params is None else {"params": params})}


async def bound(connection: Connection, name: str) -> tuple[int, int]:
    told = (await connection.call("metrics"))["bounds"][name]
    return told["current"], told["limit"]


async def until_bound(connection: Connection, name: str, current: int) -> None:
    seen = -1
    with trio.fail_after(WITHIN):
        while seen != current:
            seen, _ = await bound(connection, name)
            await trio.sleep(0.01)


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[str, Any]]:
    """An address that takes connections and never speaks: a dial to it lasts as long as it may. And what waits until
    somebody has come."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        taken: list[socket.socket] = []

        async def come() -> None:
            with trio.fail_after(WITHIN):
                taken.append((await trio.to_thread.run_sync(listener.accept, abandon_on_cancel=True))[0])

        yield f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}/p2p/{STRANGER}", come
        for one in taken:
            one.close()


async def cancelled(watching: Connection, since: int, count: int = 1) -> list[Json]:
    """The audit's entries after number ``since``, once they are so many."""
    with trio.fail_after(WITHIN):
        while True:
            told = await watching.call("audit", {"after": since, "limit": 1000})
            if len(told["entries"]) >= count:
                return list(told["entries"])
            await trio.sleep(0.01)
