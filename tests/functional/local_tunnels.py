"""Programs at both ends of a tunnel, which know of nothing but their sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.functional.local_streams import WAIT
from tests.harness import Daemon


@asynccontextmanager
async def echo(greeting: bytes = b"", path: str | None = None) -> AsyncIterator[str]:
    """A program that sends back what it gets, behind a greeting; where it listens: a port, or a Unix socket."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(greeting)
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it was cut

    if path is None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        target = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    else:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(path)
        sock.listen()
        listener, target = trio.SocketListener(sock), f"unix:{path}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield target
        nursery.cancel_scope.cancel()


async def through(listen: str) -> trio.SocketStream:
    if listen.startswith("unix:"):
        return await trio.open_unix_socket(listen.removeprefix("unix:"))
    host, _, port = listen.rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(WAIT):
        while len(data) < size:
            part = await stream.receive_some()
            assert part, f"it ended after {data!r}"
            data += part
    return data


async def cut_at_once(stream: trio.SocketStream) -> bool:
    """It is closed, or reset, before it has said anything."""
    with trio.fail_after(WAIT):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def tunnel(daemon: Daemon, tunnel_id: str) -> dict[str, Any]:
    (found,) = [one for one in await daemon.call("tunnel.list") if one["tunnelId"] == tunnel_id]
    return dict(found)
