"""Every message that the client gets from a daemon in these tests is held to the OpenRPC document."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstir_client._core.protocol import Session
from tests.functional.http_guard import LIMIT, ORIGIN
from tests.harness import Process, ipc, process
from tests.harness.schema import hold_message


@pytest.fixture(autouse=True)
def held_to_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Session.receive

    def checked(self: Session[Any], message: bytes) -> Any:
        parsed = json.loads(message)
        pending = self._pending.get(parsed.get("id"))
        hold_message(parsed, pending and pending.method)
        return receive(self, message)

    monkeypatch.setattr(Session, "receive", checked)


@pytest.fixture(scope="module")
def plain() -> Iterator[Process]:
    """A daemon with the defaults, shared by the tests of this module: each leaves its node started, without peers."""
    with process({"log.level": "debug"}) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)


@pytest.fixture(scope="module")
def tight() -> Iterator[Process]:
    """A daemon with narrow limits, shared as well."""
    settings = {
        "connections.max": 1,
        "api.max_request_bytes": 2000,
        "api.max_batch": 5,
        "events.history": 5,
        "events.heartbeat": 200,
        "log.level": "warning",  # some tests make thousands of events
    }
    with process(settings) as running:
        trio.run(running.ready)

        async def started() -> None:
            async with ipc(running) as connection:
                await connection.call("start")

        trio.run(started)
        yield running
        trio.run(running.stop)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Process]:
    """A daemon that allows a host and an origin and logs all it can, shared by the tests of this module: each leaves
    its node started."""
    settings = {
        "api.allowed_hosts": ["localhost", "127.0.0.1", "::1", "fabstird.example"],
        "api.allowed_origins": [ORIGIN],
        "api.max_request_bytes": LIMIT,
        "log.level": "debug",
    }
    with process(settings) as running:
        trio.run(running.started)
        yield running
        trio.run(running.stop)
        assert running.token not in running.text()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory:
        yield Path(directory)
