"""Tests of the asynchronous client, under each event loop that it is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest

from tests.unit.scripted_daemon import ScriptedDaemon

BACKENDS = ("trio", "asyncio")
WITHIN = 60  # seconds; a bound, never a wait
Test = Callable[[ScriptedDaemon], Awaitable[None]]


async def bounded(test: Test, daemon: ScriptedDaemon) -> None:
    with anyio.fail_after(WITHIN):
        await test(daemon)


def both(test: Test) -> Callable[..., None]:
    """Run a coroutine function of the daemon under trio and under asyncio."""

    @pytest.mark.parametrize("backend", BACKENDS)
    def run(backend: str, daemon: ScriptedDaemon) -> None:
        anyio.run(bounded, test, daemon, backend=backend)

    run.__doc__ = test.__doc__
    return run


def both_ways(test: Test) -> Callable[..., None]:
    """The same over both transports."""

    @pytest.mark.parametrize("backend", BACKENDS)
    def run(backend: str, either: ScriptedDaemon) -> None:
        anyio.run(bounded, test, either, backend=backend)

    run.__doc__ = test.__doc__
    return run


@contextmanager
def waiting_in_vain() -> Iterator[None]:
    """Where `stop` waits for handlers, or for the thread that calls them, it takes longer than any test may."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DELIVERED_WITHIN", "ENDED_WITHIN"):
            patch.setattr(f"fabstir_client._async.p2p.{name}", 10 * WITHIN)
        yield
