"""The blocking client, over a scripted daemon: calls of many threads, their bounds, and connections that end."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client import sync
from fabstir_client._sync.link import Link
from fabstir_client.api.errors import (
    ClientTimeout,
    ConnectionLost,
    DaemonUnreachable,
    MethodNotFound,
)
from tests.harness import wait_until
from tests.unit.backends import BACKENDS, WITHIN
from tests.unit.scripted_daemon import PEER, ScriptedDaemon, descriptors


def test_blocking_results_and_errors(either: ScriptedDaemon) -> None:
    either.peers = [PEER]
    with fabstir_client.connect_sync() as client:
        assert client.start({"max_retries": 1}).state == "started"
        assert [peer.peer_id for peer in client.peers()] == [PEER]
        assert json.loads(client.call_raw("echo", {"a": 1})) == {"a": 1}
        with pytest.raises(MethodNotFound):
            client.call("nope")
        assert client.call("echo", [1]) == [1]
    assert either.opened == 1  # an error that was an answer does not cost the connection


def test_threads_do_not_wait_for_each_other(either: ScriptedDaemon) -> None:
    gate = threading.Event()
    either.methods["gated"] = lambda params: gate.wait(WITHIN)
    with fabstir_client.connect_sync() as client:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(client.call("gated")))
        thread.start()
        while ("gated", {}) not in either.calls:
            assert client.status().state == "stopped"
        gate.set()
        thread.join(WITHIN)
    assert results == [True]


def test_more_threads_than_connections_are_kept(daemon: ScriptedDaemon) -> None:
    before = descriptors()
    meeting = threading.Barrier(12)
    daemon.methods["meet"] = lambda params: meeting.wait(WITHIN)
    with fabstir_client.connect_sync() as client:
        threads = [threading.Thread(target=client.call, args=("meet",)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WITHIN)
        assert daemon.opened == 12
        assert client.call("echo", [1]) == [1]
    daemon.stop()
    wait_until(lambda: descriptors() <= before)
    with pytest.raises(RuntimeError, match="closed"):
        client.status()


def test_a_blocking_connection_that_ended_while_idle_is_replaced_unseen(either: ScriptedDaemon) -> None:
    with fabstir_client.connect_sync() as client:
        for opened in (1, 2, 3):
            assert client.status().state == "stopped"
            assert either.opened == opened
            either.cut()


def test_a_blocking_call_whose_connection_ends_says_so(daemon: ScriptedDaemon) -> None:
    daemon.methods["cut"] = lambda params: daemon.cut()
    with fabstir_client.connect_sync() as client:
        with pytest.raises(ConnectionLost):
            client.call("cut")
        assert client.status().state == "stopped"


def test_every_blocking_call_is_bounded(daemon: ScriptedDaemon) -> None:
    never = threading.Event()
    daemon.methods["stuck"] = lambda params: never.wait(WITHIN)
    with fabstir_client.connect_sync() as client:
        with pytest.raises(ClientTimeout, match=r"did not answer stuck within 0\.0\d* s"):
            client.call("stuck", bound=0.05)
        never.set()
        # The late answer must not be taken for the next one.
        assert client.call("echo", [1]) == [1]


def test_blocking_without_a_with(daemon: ScriptedDaemon) -> None:
    client = sync.connect(api=f"ipc:{daemon.path}")
    assert client.status().state == "stopped"
    client.close()


def test_blocking_without_a_daemon(tmp_path: Path) -> None:
    client = fabstir_client.connect_sync(data_dir=tmp_path)
    with pytest.raises(DaemonUnreachable, match=rf"{tmp_path}/api.json: not there; {tmp_path}/api.sock: not there"):
        client.status()
    with pytest.raises(DaemonUnreachable), client:
        pytest.fail("entered")


def test_a_full_queue_of_a_socket_is_waited_for_with_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that hangs: its socket takes connections until the queue is full, and says nothing."""
    monkeypatch.setattr("fabstir_client._sync.link.CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr("fabstir_client._async.link.CONNECT_TIMEOUT", 0.1)
    path = str(tmp_path / "api.sock")

    async def main() -> None:
        async with fabstir_client.connect(api=f"ipc:{path}"):
            pytest.fail("entered")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as filler:
            filler.connect(path)
            with pytest.raises(DaemonUnreachable, match="no answer within"):
                fabstir_client.connect_sync(api=f"ipc:{path}").status()
            for backend in BACKENDS:
                with pytest.raises(DaemonUnreachable, match="no answer within"):
                    anyio.run(main, backend=backend)


def test_a_listener_that_another_thread_closes(either: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The woken thread drops the connection while `close` still needs it, which raised AttributeError."""
    handled = {"protocol": "/x/1.0.0", "mode": "stream", "backlog": 16, "acceptTimeout": 10000}
    either.methods["protocol.handle"] = lambda params: handled
    with fabstir_client.connect_sync() as client, client.listen("/x/1.0.0") as listener:
        thread = threading.Thread(target=lambda: list(listener))
        reading, receive, wake = threading.Event(), Link.receive, Link.wake

        def receive_noted(link: Link, deadline: float | None = None) -> list[bytes]:
            reading.set()
            return receive(link, deadline)

        def wake_and_wait(link: Link) -> None:
            wake(link)
            thread.join(WITHIN)

        monkeypatch.setattr(Link, "receive", receive_noted)
        monkeypatch.setattr(Link, "wake", wake_and_wait)
        thread.start()
        assert reading.wait(WITHIN)
        listener.close()
        assert not thread.is_alive()


def test_the_surface_is_the_same_in_both() -> None:
    def surface(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    for name in ("Client", "EventStream", "P2PClient", "FabstirSDK"):
        assert surface(getattr(sync, name)) - surface(getattr(fabstir_client, name)) <= {"close"}
        assert surface(getattr(fabstir_client, name)) - surface(getattr(sync, name)) <= {"aclose"}
