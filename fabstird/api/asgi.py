"""ASGI applications under hypercorn 0.18.0: the task group that runs them, and two wrappers around them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup, _handle

from fabstird.api.guard import App, Scope


class Tasks(TaskGroup):
    """Runs applications. A disconnect is delivered at once, and messages for an application that has finished are
    dropped.

    hypercorn's own group waits, shielded even from a stop, for room in a queue of ten messages. An application blocked
    while sending to a client that does not read would keep the daemon from ever stopping.
    """

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        put, take = trio.open_memory_channel[Any](math.inf)
        room = trio.Semaphore(config.max_app_queue_size)
        finished = False

        async def until_finished(*arguments: Any) -> None:
            nonlocal finished
            try:
                with take:
                    await app(*arguments)
            finally:
                finished = True
                room.release()  # the connection's reader may wait for it

        # Neither waits unless it must: trio's channels take a turn of the loop for each event.
        async def app_receive() -> Any:
            try:
                event = take.receive_nowait()
            except trio.WouldBlock:
                event = await take.receive()
            if not event["type"].endswith(".disconnect"):
                room.release()
            return event

        async def app_put(event: Any) -> None:
            if not event["type"].endswith(".disconnect") and not finished:
                try:
                    room.acquire_nowait()
                except trio.WouldBlock:
                    await room.acquire()
            try:
                put.send_nowait(event)
            except trio.BrokenResourceError:
                pass  # the application has finished

        assert self._nursery is not None
        wrapped: Any = until_finished
        spare = (trio.to_thread.run_sync, trio.from_thread.run)
        self._nursery.start_soon(_handle, wrapped, config, scope, app_receive, send, *spare)
        return app_put


def asking_for_bodies(app: App) -> App:
    """Wrap an application so that ``100 Continue`` is sent when it first reads the body."""

    async def wrapper(scope: Scope, receive: Any, send: Any) -> None:
        async def receive_body() -> Any:
            await scope["state"]["go_on"]()
            return await receive()

        await app(scope, receive_body if scope["type"] == "http" else receive, send)

    return wrapper


def complete_bodies(app: App) -> App:
    """Wrap a Quart application so that its responses always end: the last part of a body is sent even while quart-trio
    cancels itself (trap 3). Otherwise the connection would never count as idle."""

    async def send_shielded(send: Any, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            with trio.CancelScope(shield=True):
                await send(message)
        else:
            await send(message)

    async def wrapper(scope: Scope, receive: Any, send: Any) -> None:
        await app(scope, receive, partial(send_shielded, send) if scope["type"] == "http" else send)

    return wrapper
