"""`fabstir_client` against real daemons: over IPC and WebSocket, under trio and asyncio, and blocking."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client import Event, Lagged, sync
from fabstir_client.api.errors import (
    ConnectionLost,
    DaemonUnreachable,
    DeadlineExceeded,
    DialFailed,
    FabstirError,
    Forbidden,
    InvalidParams,
    InvalidState,
    MethodNotFound,
    NodeNotRunning,
    PeerNotFound,
    TooLarge,
)
from fabstir_client.api.types import NodeStarted, PeerConnected, PeerDisconnected, PeerIdentified
from tests.harness import RunningDaemon, running_daemon
from tests.support.ports import refusing_port

BACKENDS = ("trio", "asyncio")
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
WITHIN = 120  # seconds; a bound, never a wait


@pytest.fixture(scope="module")
def alice() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def bob() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        yield daemon


@dataclass
class Pair:
    """Alice, started and alone; how to reach her; and Bob's address."""

    alice: RunningDaemon
    where: dict[str, Any]
    address: str
    peer_id: str


@pytest.fixture(params=["ipc", "http"])
def pair(request: pytest.FixtureRequest, alice: RunningDaemon, bob: RunningDaemon) -> Pair:
    with fabstir_client.connect_sync(data_dir=bob.data_dir) as client:
        bobs = client.start()
    with fabstir_client.connect_sync(data_dir=alice.data_dir) as client, client.events() as events:
        client.start()
        for peer in client.peers():
            client.disconnect(peer.peer_id)
        client.stop()
        # Everything that was under way is over, and whoever follows from now on sees only their own.
        while True:
            item = events.get(WITHIN)
            if isinstance(item, Event) and item.type == "p2p:stopped":
                break
        client.start()
    where = {"data_dir": alice.data_dir} if request.param == "ipc" else {"api": alice.http, "data_dir": alice.data_dir}
    return Pair(alice, where, bobs.listen_addresses[0], bobs.peer_id)


def both(test: Callable[[Pair], Awaitable[None]]) -> Callable[..., None]:
    async def bounded(pair: Pair) -> None:
        with anyio.fail_after(WITHIN):
            await test(pair)

    @pytest.mark.parametrize("backend", BACKENDS)
    def run(backend: str, pair: Pair) -> None:
        anyio.run(bounded, pair, backend=backend)

    run.__doc__ = test.__doc__
    return run


@both
async def test_every_method(pair: Pair) -> None:
    async with fabstir_client.connect(**pair.where) as client:
        status = await client.status()
        assert (status.state, status.connected, status.peers) == ("started", True, 0)
        assert status.epoch == pair.alice.api["epoch"]

        connected = await client.connect(pair.address)
        assert (connected.peer_id, connected.direction, connected.already_connected) == (
            pair.peer_id,
            "outbound",
            False,
        )
        assert (await client.connect(pair.peer_id)).already_connected
        (peer,) = await client.peers()
        assert peer.peer_id == pair.peer_id
        assert peer.connections[0].address == pair.address
        assert (await client.ping(pair.peer_id)).rtt > 0
        metrics = await client.metrics()
        assert metrics.connected_peers == [pair.peer_id]
        assert (await client.disconnect(pair.peer_id)).closed == 1

        addresses = await client.addresses()
        assert addresses.peer_id == status.peer_id
        assert addresses.listen == status.listen_addresses
        config = await client.config()
        assert config["node"]["listen_addresses"] == ["/ip4/127.0.0.1/tcp/0"]
        assert "/ipfs/ping/1.0.0" in (await client.version()).protocols
        assert (await client.call("status"))["peerId"] == status.peer_id

        assert (await client.stop()).state == "stopped"
        assert (await client.stop()).state == "stopped"
        restarted = await client.start({"bootstrapNodes": [], "max_retries": 1})
        assert (restarted.state, restarted.peer_id) == ("started", status.peer_id)


async def refused(kind: type[FabstirError], call: Awaitable[Any]) -> FabstirError:
    with pytest.raises(kind) as caught:
        await call
    assert str(caught.value)
    return caught.value


@both
async def test_every_error_has_its_class(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, refusing_port() as closed:
        mute = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{STRANGER}"
        dead = f"/ip4/127.0.0.1/tcp/{closed}/p2p/{STRANGER}"
        async with fabstir_client.connect(**pair.where) as client:
            await refused(MethodNotFound, client.call("nope"))
            await refused(InvalidParams, client.connect("/ip4/127.0.0.1/tcp/1"))
            await refused(InvalidParams, client.call("connect", {"address": 1}))
            await refused(InvalidState, client.start({"maxRetries": 9}))
            await refused(PeerNotFound, client.disconnect(STRANGER))
            await refused(PeerNotFound, client.connect(STRANGER))
            error = await refused(DialFailed, client.connect(dead))
            assert (error.code, error.retryable) == ("DIAL_FAILED", True)
            assert "connection refused" in json.dumps(error.data)
            error = await refused(DeadlineExceeded, client.connect(mute, timeout=100))
            assert error.code == "TIMEOUT"
            await client.stop()
            await refused(NodeNotRunning, client.connect(pair.address))


@both
async def test_a_slow_call_delays_no_other(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{STRANGER}"
        async with fabstir_client.connect(**pair.where) as client, anyio.create_task_group() as tasks:

            async def dial() -> None:
                await client.connect(mute)

            tasks.start_soon(dial)
            async with anyio.create_task_group() as others:
                for _ in range(50):
                    others.start_soon(client.status)
            tasks.cancel_scope.cancel()


@both
async def test_a_request_over_the_limit(pair: Pair) -> None:
    async with fabstir_client.connect(**pair.where) as client:
        with pytest.raises(TooLarge):
            await client.connect("x" * 2_000_000)
        assert (await client.status()).connected


@both
async def test_events(pair: Pair) -> None:
    async with fabstir_client.connect(**pair.where) as client, client.events() as events:
        await client.connect(pair.address)
        first, second = await events.__anext__(), await events.__anext__()
        assert isinstance(first, Event)
        assert first.data == PeerConnected(pair.peer_id, pair.address, "outbound")
        assert isinstance(second, Event)
        assert isinstance(second.data, PeerIdentified)
        await client.disconnect(pair.peer_id)
        last = await events.__anext__()
        assert isinstance(last, Event)
        assert isinstance(last.data, PeerDisconnected)
        assert last.data.reason == "closed"
        # The same again from the log, and only what was asked for.
        async with client.events(types=["peer:connect"], after=first.seq - 1, epoch=first.epoch) as replay:
            assert await replay.__anext__() == first


@both
async def test_a_wrong_after_and_a_type_that_is_none(pair: Pair) -> None:
    async with fabstir_client.connect(**pair.where) as client:
        with pytest.raises(InvalidParams):
            await client.events(after=10**6).__anext__()
        with pytest.raises(InvalidParams, match="peer:conect"):
            await client.events(types=["peer:conect"]).__anext__()


@both
async def test_another_run_is_a_gap(pair: Pair) -> None:
    kinds = ["p2p:started"]
    async with (
        fabstir_client.connect(**pair.where) as client,
        client.events(after=3, epoch="of-long-ago", types=kinds) as events,
    ):
        assert await events.__anext__() == Lagged(None, 1)
        event = await events.__anext__()
        assert isinstance(event, Event)
        assert isinstance(event.data, NodeStarted)


def test_blocking_calls_and_events(pair: Pair) -> None:
    with fabstir_client.connect_sync(**pair.where) as client, client.events(types=["peer:connect"]) as events:
        assert client.metrics().connected_peers == []
        slow = threading.Thread(target=client.connect, args=(pair.address,))
        slow.start()
        event = events.get(WITHIN)
        slow.join(WITHIN)
        assert isinstance(event, Event)
        assert event.data == PeerConnected(pair.peer_id, pair.address, "outbound")
        with pytest.raises(TooLarge):
            client.connect("x" * 2_000_000)
        with pytest.raises(PeerNotFound):
            client.ping(STRANGER)
        assert [peer.peer_id for peer in client.peers()] == [pair.peer_id]


def test_a_wrong_token(alice: RunningDaemon) -> None:
    with pytest.raises(Forbidden, match="refused the token"):
        fabstir_client.connect_sync(api=alice.http, token="wrong-but-long-enough").status()

    async def main() -> None:
        async with fabstir_client.connect(api=alice.http, token="wrong-but-long-enough"):
            pytest.fail("entered")

    for backend in BACKENDS:
        with pytest.raises(Forbidden, match="refused the token"):
            anyio.run(main, backend=backend)


def test_the_token_from_a_file_and_from_the_environment(alice: RunningDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    token = alice.data_dir / "api.token"
    monkeypatch.setenv("FABSTIR_API", alice.http)
    monkeypatch.setenv("FABSTIR_TOKEN_FILE", str(token))
    with fabstir_client.connect_sync() as client:
        assert client.status().epoch == alice.api["epoch"]
    monkeypatch.delenv("FABSTIR_TOKEN_FILE")
    monkeypatch.setenv("FABSTIR_TOKEN", token.read_text().strip())
    with fabstir_client.connect_sync() as client:
        assert client.status().epoch == alice.api["epoch"]


def test_http_where_ipc_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running_daemon(api__ipc="", node__auto_start=False) as daemon:
        with fabstir_client.connect_sync(data_dir=daemon.data_dir) as client:
            assert client.status().state == "stopped"
        daemon.kill()
        with pytest.raises(DaemonUnreachable, match="left by a daemon that is gone"):
            fabstir_client.connect_sync(data_dir=daemon.data_dir).status()


def test_the_usual_place_is_found_without_a_word(monkeypatch: pytest.MonkeyPatch, alice: RunningDaemon) -> None:
    for name in ("FABSTIR_API", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = alice.data_dir.with_name("home")
    (home / ".local" / "state").mkdir(parents=True, exist_ok=True)
    (home / ".local" / "state" / "fabstird").symlink_to(alice.data_dir)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    with fabstir_client.connect_sync() as client:
        assert client.status().epoch == alice.api["epoch"]


@pytest.mark.parametrize("how", ["ipc", "http"])
@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("backend", [*BACKENDS, "threads"])
def test_events_survive_a_restart(backend: str, end: str, how: str) -> None:
    """The port is another one afterwards, and the socket is another socket: found anew through the data directory."""
    settings = {"api__ipc": ""} if how == "http" else {}
    with running_daemon(node__auto_start=False, **settings) as daemon:

        def restart() -> None:
            daemon.stop() if end == "stop" else daemon.kill()
            daemon.start()
            with fabstir_client.connect_sync(data_dir=daemon.data_dir) as client:
                client.start()

        async def main() -> None:
            async with fabstir_client.connect(data_dir=daemon.data_dir) as client:
                async with client.events(types=["p2p:started"]) as events:
                    await client.start()
                    check(await events.__anext__(), daemon.api["epoch"])
                    await anyio.to_thread.run_sync(restart)
                    with anyio.fail_after(WITHIN):
                        assert await events.__anext__() == Lagged(None, 1)
                        check(await events.__anext__(), daemon.api["epoch"])
                # The client's own connection ended as well; its next call does not notice.
                assert (await client.status()).epoch == daemon.api["epoch"]

        def check(item: Event | Lagged, epoch: str) -> None:
            assert isinstance(item, Event)
            assert (item.type, item.epoch) == ("p2p:started", epoch)

        if backend != "threads":
            anyio.run(main, backend=backend)
            return
        with sync.connect(data_dir=daemon.data_dir) as client:
            with client.events(types=["p2p:started"]) as events:
                client.start()
                check(events.get(WITHIN), daemon.api["epoch"])
                restart()
                assert events.get(WITHIN) == Lagged(None, 1)
                check(events.get(WITHIN), daemon.api["epoch"])
            assert client.status().epoch == daemon.api["epoch"]


@pytest.mark.parametrize("how", ["ipc", "http"])
def test_a_killed_daemon_is_a_lost_connection_and_then_none(how: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        running_daemon(**({"api__ipc": ""} if how == "http" else {})) as daemon,
        fabstir_client.connect_sync(data_dir=daemon.data_dir) as client,
    ):
        client.start()
        mute = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{STRANGER}"
        errors: list[FabstirError] = []

        def dial() -> None:
            with pytest.raises(ConnectionLost) as caught:
                client.connect(mute)
            errors.append(caught.value)

        thread = threading.Thread(target=dial)
        thread.start()
        silent.settimeout(WITHIN)
        with silent.accept()[0]:  # the daemon dials: the call is under way
            daemon.kill()
            thread.join(WITHIN)
        assert len(errors) == 1
        with pytest.raises(DaemonUnreachable):
            client.status()


def test_shutdown() -> None:
    with running_daemon() as daemon:
        with fabstir_client.connect_sync(data_dir=daemon.data_dir) as client:
            client.shutdown()
        daemon.end()

    async def main(data_dir: Path) -> None:
        async with fabstir_client.connect(data_dir=data_dir) as client:
            await client.shutdown()

    with running_daemon() as daemon:
        anyio.run(main, daemon.data_dir)
        daemon.end()
