"""`P2PClient` and `FabstirSDK` against real daemons and a real peer: what code written for the TypeScript SDK sees."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client import FabstirSDK, P2PClient, sync
from fabstir_client.api.errors import InvalidParams, InvalidState
from tests.harness import RunningDaemon, running_daemon, wait_until
from tests.support.ports import refusing_port

BACKENDS = ("trio", "asyncio")
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
WITHIN = 120  # seconds; a bound, never a wait

Seen = list[tuple[str, Any]]
NAMES = (
    *("p2p:started", "p2p:stopped", "peer:connect", "peer:disconnect", "peer:identify"),
    *("connection:retry", "connection:failed", "connection:cancelled", "error", "lagged"),
)
SDK_NAMES = ("error", *(name if name.startswith("p2p:") else f"p2p:{name}" for name in NAMES))


@pytest.fixture(scope="module")
def alice() -> Iterator[RunningDaemon]:
    """As a user's daemon is: started by itself, with a configuration of its own."""
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def bob() -> Iterator[RunningDaemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture
def dead() -> Iterator[str]:
    with refusing_port() as port:
        yield f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "fabstir_client events"])


def run(backend: str, test: Callable[..., Awaitable[None]], *args: Any) -> None:
    async def bounded() -> None:
        with anyio.fail_after(WITHIN):
            await test(*args)

    anyio.run(bounded, backend=backend)


def listen(emitter: Any, seen: Seen, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        emitter.on(name, lambda payload, name=name: seen.append((name, payload)))


def payloads(seen: Seen, name: str) -> list[Any]:
    return [payload for known, payload in seen if known == name]


async def eventually(condition: Callable[[], Any]) -> Any:
    while not (value := condition()):  # noqa: ASYNC110 - a thread makes it true
        await anyio.sleep(0.01)
    return value


def address_of(daemon: RunningDaemon) -> tuple[str, str]:
    with fabstir_client.connect_sync(data_dir=daemon.data_dir) as client:
        status = client.start()
    return status.peer_id, status.listen_addresses[0]


@pytest.mark.parametrize("how", ["ipc", "http"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_peer_comes_and_is_killed(backend: str, how: str, alice: RunningDaemon, bob: RunningDaemon) -> None:
    peer, address = address_of(bob)

    async def main() -> None:
        seen: Seen = []
        where = {} if how == "ipc" else {"api": alice.http}
        client = P2PClient({"bootstrapNodes": [address], "enableMDNS": False}, data_dir=alice.data_dir, **where)
        listen(client, seen)
        await client.start()
        assert (client.is_started(), client.get_status()) == (True, "started")
        await eventually(lambda: payloads(seen, "peer:identify"))
        assert payloads(seen, "peer:connect") == [peer]
        assert payloads(seen, "p2p:started")[-1]["listenAddresses"] == await client.get_listen_addresses()
        assert await client.get_connected_peers() == [peer]
        assert "/ipfs/ping/1.0.0" in await client.get_registered_protocols()
        assert (await client.get_detailed_status()).bootstrap_nodes == [address]
        metrics = await client.get_p2p_metrics()
        assert (metrics.connected, metrics.peer_id, metrics.connected_peers) == (
            True,
            await client.get_peer_id(),
            [peer],
        )
        bob.kill()
        await eventually(lambda: payloads(seen, "peer:disconnect"))
        assert payloads(seen, "peer:disconnect") == [peer]
        assert await client.get_connected_peers() == []
        await client.stop()
        assert (client.is_started(), client.get_status()) == (False, "stopped")
        assert await client.get_listen_addresses() == []
        assert await client.get_connected_peers() == []
        (last, _) = seen[-1]
        assert last == "p2p:stopped"

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dead_bootstrap_node(backend: str, alice: RunningDaemon, dead: str) -> None:
    async def main() -> None:
        seen: Seen = []
        config = {"bootstrap_nodes": [dead], "max_retries": 3, "retry_delay": 20}
        client = P2PClient(config, data_dir=alice.data_dir)
        listen(client, seen)  # before the first retry may come
        async with client:
            await eventually(lambda: payloads(seen, "connection:failed"))
        (failed,) = payloads(seen, "connection:failed")
        assert (failed["attempts"], failed["reason"]) == (4, "Max retries exceeded")
        retries = [(retry["attempt"], retry["delay"]) for retry in payloads(seen, "connection:retry")]
        assert retries == [(1, 20), (2, 40), (3, 80)]

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_start_and_stop_again_and_again(backend: str, alice: RunningDaemon, dead: str) -> None:
    """Handlers are told of the whole of each life, and of nothing after it."""

    async def main() -> None:
        seen: Seen = []
        client = P2PClient({"bootstrapNodes": [dead], "retryDelay": 60_000}, data_dir=alice.data_dir, restart=True)
        await client.start()
        await client.stop()
        listen(client, seen)
        for _ in range(5):
            await client.start()
            await client.stop()
            names = [name for name, _ in seen]
            assert names[0] == "p2p:started"
            assert names[-2:] == ["connection:cancelled", "p2p:stopped"]
            assert names.count("p2p:started") == names.count("p2p:stopped") == 1
            seen.clear()

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_configuration_that_the_daemon_refuses(backend: str, alice: RunningDaemon) -> None:
    async def main() -> None:
        async with fabstir_client.connect(data_dir=alice.data_dir) as other:
            await other.start()
            with pytest.raises(InvalidState):
                await P2PClient({"maxRetries": 17}, data_dir=alice.data_dir, restart=False).start()
            assert (await other.status()).connected
            await other.stop()
            with pytest.raises(InvalidParams, match="maxRetries"):
                await P2PClient({"maxRetries": -1}, data_dir=alice.data_dir).start()
            with pytest.raises(InvalidParams, match="not-an-address"):
                await P2PClient({"bootstrapNodes": ["not-an-address"]}, data_dir=alice.data_dir).start()
            assert (await other.status()).state == "stopped"

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sdk(backend: str, alice: RunningDaemon, bob: RunningDaemon, dead: str) -> None:
    peer, address = address_of(bob)

    async def main() -> None:
        seen: Seen = []
        config = {"bootstrapNodes": [dead, address], "maxRetries": 0}
        sdk = FabstirSDK(mode="production", p2p_config=config, data_dir=alice.data_dir)
        listen(sdk, seen, SDK_NAMES)
        assert (sdk.is_p2p_enabled(), sdk.is_p2p_connected(), await sdk.get_p2p_metrics()) == (True, False, None)
        await sdk.connect()
        assert payloads(seen, "p2p:started")
        assert (sdk.is_p2p_connected(), sdk.get_p2p_status()) == (True, "connected")
        await eventually(lambda: payloads(seen, "p2p:connection:failed") and payloads(seen, "p2p:peer:connect"))
        (error,) = payloads(seen, "error")
        assert (error["type"], error["error"]["type"]) == ("P2P_ERROR", "BOOTSTRAP_CONNECTION_FAILED")
        assert error["error"]["address"] == dead
        assert payloads(seen, "p2p:peer:connect") == [peer]
        metrics = await sdk.get_p2p_metrics()
        assert metrics is not None
        assert metrics.connected_peers == [peer]
        bob.kill()
        await eventually(lambda: payloads(seen, "p2p:peer:disconnect"))
        await sdk.disconnect()
        assert len(payloads(seen, "p2p:stopped")) >= 1
        assert (sdk.is_p2p_connected(), sdk.get_p2p_status()) == (False, "disconnected")

    run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_daemon_is_killed_and_comes_back(backend: str) -> None:
    async def main(daemon: RunningDaemon) -> None:
        seen: Seen = []
        async with FabstirSDK("production", {"bootstrapNodes": []}, data_dir=daemon.data_dir) as sdk:
            listen(sdk, seen, SDK_NAMES)
            daemon.kill()
            await eventually(lambda: payloads(seen, "error"))
            assert payloads(seen, "error")[0]["error"]["type"] == "CONNECTION_LOST"
            assert sdk.get_p2p_status() == "disconnected"
            await anyio.to_thread.run_sync(daemon.start)
            await eventually(sdk.is_p2p_connected)
            await eventually(lambda: payloads(seen, "p2p:started"))
            assert payloads(seen, "p2p:lagged") == [{"missed": None, "resume": 1}]

    with running_daemon() as daemon:
        run(backend, main, daemon)


def test_the_blocking_twins(alice: RunningDaemon, bob: RunningDaemon, dead: str) -> None:
    peer, address = address_of(bob)
    seen: Seen = []
    with sync.P2PClient({"bootstrapNodes": [address]}, data_dir=alice.data_dir) as client:
        listen(client, seen)
        wait_until(lambda: client.get_connected_peers() == [peer])
        assert client.get_peer_id() == client.get_detailed_status().peer_id
        client.disconnect(peer)
        wait_until(lambda: payloads(seen, "peer:disconnect") == [peer])
    assert payloads(seen, "p2p:stopped")
    errors: Seen = []
    sdk = sync.FabstirSDK("production", {"bootstrapNodes": [dead]}, data_dir=alice.data_dir)
    listen(sdk, errors, SDK_NAMES)
    sdk.connect()
    assert sdk.get_p2p_status() == "connected"
    wait_until(lambda: payloads(errors, "error"))
    sdk.disconnect()
    assert [name for name, _ in errors][-1] == "p2p:stopped"
