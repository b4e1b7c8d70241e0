"""Calls, over a real socket, from trio and asyncio: concurrency, loss, reconnection, bounds, and no leaks."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client._core import calls
from fabstir_client.api.errors import (
    BadAnswer,
    ClientTimeout,
    ConnectionLost,
    DaemonUnreachable,
    FabstirError,
    Forbidden,
    InvalidConfig,
    NodeNotRunning,
    TooLarge,
)
from tests.harness import wait_until
from tests.support.ports import refusing_port
from tests.unit.backends import BACKENDS, WITHIN, both, both_ways
from tests.unit.scripted_daemon import PEER, TOKEN, ScriptedDaemon, descriptors


@both_ways
async def test_results_are_structs(daemon: ScriptedDaemon) -> None:
    daemon.peers = [PEER]
    async with fabstir_client.connect() as client:
        status = await client.start({"bootstrapNodes": ["/ip4/1.2.3.4/tcp/1/p2p/x"], "enable_dht": False})
        (peer,) = await client.peers()
        assert await client.call("echo", {"any": [1, None]}) == {"any": [1, None]}
        assert await client.call("echo", [1, 2]) == [1, 2]
    assert (status.state, status["peerId"], peer.peer_id, peer.get("latency")) == ("started", "12D3KooWOwn", PEER, None)
    assert daemon.calls[0] == (
        "start",
        {"config": {"bootstrapNodes": ["/ip4/1.2.3.4/tcp/1/p2p/x"], "enableDHT": False}},
    )


@both_ways
async def test_an_error_of_the_daemon_reaches_the_caller_as_it_is(daemon: ScriptedDaemon) -> None:
    def refuse(params: Any) -> Any:
        raise NodeNotRunning("the node is stopped", hint="start it")

    daemon.methods["ping"] = refuse
    # Not wrapped in an exception group either, though a task group is behind it.
    with pytest.raises(NodeNotRunning, match="the node is stopped") as caught:
        async with fabstir_client.connect() as client:
            await client.ping(PEER)
    assert (caught.value.data, caught.value.retryable) == ({"hint": "start it"}, True)


@both_ways
async def test_answers_come_in_any_order(daemon: ScriptedDaemon) -> None:
    gates = [threading.Event() for _ in range(20)]

    def gated(params: Any) -> int:
        number: int = params["number"]
        assert gates[number].wait(WITHIN)
        return number

    daemon.methods["gated"] = gated
    answered: list[int] = []
    async with fabstir_client.connect() as client:

        async def one(number: int) -> None:
            assert await client.call("gated", {"number": number}) == number
            answered.append(number)
            if number:
                gates[number - 1].set()  # each answer lets the one before it out: they come in reverse

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, number)
            while len(daemon.calls) < 20:
                await client.status()
                daemon.calls[:] = [call for call in daemon.calls if call[0] == "gated"]
            gates[19].set()
    assert answered == list(reversed(range(20)))
    assert daemon.opened == 1


@both_ways
async def test_pending_calls_learn_that_the_connection_is_lost_and_the_next_call_reconnects(
    daemon: ScriptedDaemon,
) -> None:
    arrived, never = threading.Event(), threading.Event()

    def stuck(params: Any) -> None:
        arrived.set()
        never.wait(WITHIN)

    daemon.methods["stuck"] = stuck
    lost: list[ConnectionLost] = []
    async with fabstir_client.connect() as client:

        async def wait() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await client.call("stuck")
            lost.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            while not arrived.is_set():
                await client.status()
            daemon.cut()
        assert len(lost) == 2
        assert (await client.status()).state == "stopped"
        assert daemon.opened == 2
    never.set()


@both
async def test_a_connection_that_ended_while_idle_is_replaced_unseen(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        for opened in (1, 2, 3):
            assert (await client.status()).state == "stopped"
            assert daemon.opened == opened
            daemon.cut()


@both
async def test_callers_that_find_the_connection_gone_share_one_new_one(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        await client.status()
        daemon.cut()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client.status)
    assert daemon.opened == 2


@both
async def test_a_daemon_that_went_away_is_unreachable_and_found_again(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        daemon.stop()
        with pytest.raises(DaemonUnreachable, match=r"not there.*Start one with: fabstird run"):
            await client.status()
        daemon.start()
        assert (await client.status()).state == "stopped"


@both
async def test_no_daemon(daemon: ScriptedDaemon) -> None:
    with pytest.raises(DaemonUnreachable, match="no daemon was reached"):
        async with fabstir_client.connect(api="ipc:/nonexistent/api.sock"):
            pytest.fail("entered")


@both
async def test_a_socket_that_nobody_listens_on(daemon: ScriptedDaemon) -> None:
    path = daemon.path.with_name("dead.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(DaemonUnreachable, match="refused, nobody listens there"):
        async with fabstir_client.connect(api=f"ipc:{path}"):
            pytest.fail("entered")


@both
async def test_every_call_is_bounded(daemon: ScriptedDaemon) -> None:
    never = threading.Event()
    daemon.methods["stuck"] = lambda params: never.wait(WITHIN)
    async with fabstir_client.connect() as client:
        with pytest.raises(ClientTimeout, match=r"did not answer stuck within 0\.0\d* s"):
            await client.call("stuck", bound=0.05)
        assert await client.call("echo", {"x": 1}) == {"x": 1}
        never.set()
        assert await client.call("echo", {"x": 2}) == {"x": 2}
    assert daemon.opened == 1


@both
async def test_a_cancelled_call_leaves_the_others_alone(daemon: ScriptedDaemon) -> None:
    never = threading.Event()
    daemon.methods["stuck"] = lambda params: never.wait(WITHIN)
    async with fabstir_client.connect() as client:
        with anyio.move_on_after(0.05) as scope:
            await client.call("stuck")
        assert scope.cancelled_caught
        assert await client.call("echo", [1]) == [1]
        never.set()
    assert daemon.opened == 1


@both
async def test_a_large_request_that_is_cancelled_half_way_does_not_spoil_the_connection(daemon: ScriptedDaemon) -> None:
    large = "x" * 4_000_000
    async with fabstir_client.connect() as client:
        for _ in range(5):
            with anyio.move_on_after(0.001):
                await client.call("echo", [large])
            assert await client.call("echo", [1]) == [1]
        assert await client.call("echo", [large]) == [large]
    assert daemon.opened == 1


@both
async def test_leaving_ends_pending_calls_and_leaves_nothing_open(daemon: ScriptedDaemon) -> None:
    never = threading.Event()
    daemon.methods["stuck"] = lambda params: never.wait(WITHIN)
    before = descriptors()
    ended: list[str] = []

    async def call(client: fabstir_client.Client) -> None:
        with pytest.raises(ConnectionLost):
            await client.call("stuck")
        ended.append("call")

    async with anyio.create_task_group() as tasks, fabstir_client.connect() as client:
        tasks.start_soon(call, client)
        while not daemon.calls:
            await client.status()
    assert ended == ["call"]
    with pytest.raises(RuntimeError, match="outside of its `async with`"):
        await client.status()
    never.set()
    daemon.stop()
    wait_until(lambda: descriptors() <= before)


@both
async def test_cancelling_the_block_is_cancelling_the_block(daemon: ScriptedDaemon) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with fabstir_client.connect() as client:
            await client.status()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


def test_asyncios_own_cancellation_passes_through(daemon: ScriptedDaemon) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.05), fabstir_client.connect() as client:
            await client.status()
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        asyncio.run(main())


@both
async def test_what_the_daemon_says_before_it_closes_is_heard(daemon: ScriptedDaemon) -> None:
    """A line over the limit is answered without an id and closed, unread; our own sending fails meanwhile."""

    def too_large(params: Any) -> Any:
        (connection,) = daemon.connections
        connection.send({"jsonrpc": "2.0", "id": None, "error": {"code": -32003, "message": "line over the limit"}})
        connection.cut()

    daemon.methods["large"] = too_large
    async with fabstir_client.connect() as client:
        with pytest.raises(TooLarge, match="line over the limit"):
            await client.call("large")
        assert (await client.status()).state == "stopped"


@both
async def test_a_daemon_that_talks_nonsense_is_left(daemon: ScriptedDaemon) -> None:
    daemon.methods["nonsense"] = lambda params: daemon.connections[-1].send_text("\x00 nonsense")
    async with fabstir_client.connect() as client:
        with pytest.raises(BadAnswer, match="not JSON-RPC"):
            await client.call("nonsense")
        assert (await client.status()).state == "stopped"


@both
async def test_a_wrong_configuration_is_never_sent(daemon: ScriptedDaemon) -> None:
    async with fabstir_client.connect() as client:
        with pytest.raises(InvalidConfig, match="dialtimeout"):
            await client.start({"dialtimeout": 1})
    assert daemon.calls == []


# WebSocket


@pytest.mark.parametrize("backend", [*BACKENDS, "threads"])
@pytest.mark.parametrize(
    ("token", "text"), [("wrong", r"refused the token \(from FABSTIR_TOKEN\)"), ("", "none was found")]
)
def test_a_refused_token_is_told_apart_and_not_shown(
    backend: str, token: str, text: str, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FABSTIR_API", f"http://127.0.0.1:{daemon.serve_websocket(TOKEN)}")
    monkeypatch.setenv("FABSTIR_TOKEN", token)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    async def main() -> None:
        async with fabstir_client.connect():
            pytest.fail("entered")

    with pytest.raises(Forbidden, match=text) as caught:
        anyio.run(main, backend=backend) if backend != "threads" else fabstir_client.connect_sync().status()
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("path", ["/elsewhere", ""])
def test_what_is_no_daemon_is_unreachable(path: str, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABSTIR_TOKEN", TOKEN)

    async def main() -> None:
        async with fabstir_client.connect(api=api):
            pytest.fail("entered")

    with refusing_port() as closed:
        if path:
            api = f"http://127.0.0.1:{daemon.serve_websocket(TOKEN)}{path}"
            text = "HTTP 404"
        else:
            api, text = f"http://127.0.0.1:{closed}", "refused, nobody listens there"
        with pytest.raises(DaemonUnreachable, match=text):
            fabstir_client.connect_sync(api=api).status()
        for backend in BACKENDS:
            with pytest.raises(DaemonUnreachable, match=text):
                anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", [*BACKENDS, "threads"])
def test_a_message_over_the_limit_of_a_websocket(
    backend: str, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABSTIR_API", f"http://127.0.0.1:{daemon.serve_websocket(TOKEN)}")
    monkeypatch.setenv("FABSTIR_TOKEN", TOKEN)
    large = ["x" * 10_000]

    async def main() -> None:
        async with fabstir_client.connect() as client:
            with pytest.raises(TooLarge):
                await client.call("echo", large)
            assert await client.call("echo", [1]) == [1]

    if backend != "threads":
        anyio.run(main, backend=backend)
        return
    with fabstir_client.connect_sync() as client:
        with pytest.raises(TooLarge):
            client.call("echo", large)
        assert client.call("echo", [1]) == [1]


def test_every_error_is_a_fabstir_error() -> None:
    for error in (ClientTimeout, ConnectionLost, DaemonUnreachable, BadAnswer, InvalidConfig, Forbidden):
        assert issubclass(error, FabstirError)
        assert error.code != FabstirError.code
    assert issubclass(InvalidConfig, ValueError)
    assert calls.DEFAULT_BOUND == 60


def test_what_type_checkers_find_is_there() -> None:
    """The names are imported when they are first used, so those that type checkers see are written down twice."""
    for module in (fabstir_client, fabstir_client.sync):
        declared = re.findall(r"^    from [\w.]+ import \w+ as (\w+)$", inspect.getsource(module), re.MULTILINE)
        assert len(declared) > 5
        for name in declared:
            assert getattr(module, name).__name__ in (name, name.removesuffix("_sync"))
