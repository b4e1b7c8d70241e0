"""`P2PClient`, in event loops and in threads, over a scripted daemon."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client import FabstirSDK, P2PClient, sync
from fabstir_client._sync.follower import NodeView
from fabstir_client.api.errors import DaemonUnreachable, InvalidConfig, InvalidState, ListenFailed, NodeNotRunning
from fabstir_client.api.types import Event, Status
from tests.harness import wait_until
from tests.unit.backends import BACKENDS, WITHIN, both, bounded, waiting_in_vain
from tests.unit.scripted_daemon import OWN, PEER, ScriptedDaemon, connect_peer
from tests.unit.told import Seen, eventually, following, has, listen


def status(epoch: str, head: int, *, started: bool) -> Status:
    return Status("started" if started else "stopped", started, "x", 0, 0, [], [], "0", epoch, head)


def test_the_newest_word_counts_whether_answer_or_event() -> None:
    view = NodeView()
    view.learn(status("e", 5, started=True))
    view.take(Event("e", 4, 0, "p2p:stopped", {}))  # older than the answer
    assert view.started
    view.take(Event("e", 6, 0, "p2p:stopped", {}))
    assert not view.started
    view.learn(status("e", 5, started=True))  # an answer that was overtaken
    assert not view.started
    view.take(Event("e", 7, 0, "p2p:started", {}))
    assert view.started
    view.learn(status("other", 0, started=False))
    assert not view.started


@both
async def test_a_life_without_any_context_manager(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    client = P2PClient({"bootstrapNodes": [], "dial_timeout": 500})
    listen(client, seen)
    assert (client.is_started(), client.get_status()) == (False, "stopped")
    await client.stop()  # nothing to stop
    assert daemon.calls == []
    for _ in range(3):
        await client.start()
        assert (client.is_started(), client.get_status()) == (True, "started")
        assert seen == [("p2p:started", {"peerId": OWN, "listenAddresses": []})]
        await client.start()
        assert len(following()) == 1
        connect_peer(daemon)
        assert await has(seen, "peer:connect") == PEER
        assert await client.get_connected_peers() == [PEER]
        await client.stop()
        assert seen[2:] == [("peer:disconnect", PEER), ("p2p:stopped", {"peerId": OWN})]
        assert (client.is_started(), client.get_status()) == (False, "stopped")
        assert following() == []
        seen.clear()
    assert daemon.calls[1] == ("start", {"config": {"bootstrapNodes": [], "dialTimeout": 500}})


@both
async def test_a_life_in_a_context_manager(daemon: ScriptedDaemon) -> None:
    with anyio.CancelScope() as scope:
        async with P2PClient() as client:
            assert client.is_started()
            scope.cancel()
            await anyio.sleep_forever()
    assert daemon.state == "stopped"
    assert following() == []


@both
async def test_handlers_may_be_coroutines_and_run_one_after_the_other(daemon: ScriptedDaemon) -> None:
    order: list[str] = []
    async with P2PClient() as client:

        async def slow(data: Any) -> None:
            order.append(f"slow {data['text']} begins")
            await anyio.sleep(0.01)
            order.append(f"slow {data['text']} ends")

        client.on("note", slow).on("note", lambda data: order.append(f"quick {data['text']}"))
        daemon.publish("note", text="1")
        daemon.publish("note", text="2")
        await eventually(lambda: len(order) == 6)
    assert order == [
        "slow 1 begins", "slow 1 ends", "quick 1", "slow 2 begins", "slow 2 ends", "quick 2"
    ]  # fmt: skip


@both
async def test_a_handler_that_raises_stops_nobody(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("fabstir_client.p2p")
    logger.addHandler(handler)
    try:
        async with P2PClient() as client:

            def broken(_: Any) -> None:
                raise ZeroDivisionError

            async def also_broken(_: Any) -> None:
                raise ZeroDivisionError

            client.on("peer:connect", broken).on("peer:connect", also_broken)
            listen(client, seen, ["peer:connect", "later"])
            connect_peer(daemon)
            daemon.publish("later", x=1)
            assert await has(seen, "later") == {"x": 1}
    finally:
        logger.removeHandler(handler)
    assert seen[0] == ("peer:connect", PEER)
    assert [record.getMessage() for record in records] == ["a handler of 'peer:connect' raised"] * 2
    assert all(record.exc_info for record in records)


@both
async def test_off_takes_back_one_on(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    handler = seen.append
    async with P2PClient() as client:
        client.on("note", handler).on("note", handler).off("note", handler).off("other", handler)
        listen(client, seen, ["end"])
        daemon.publish("note", x=1)
        daemon.publish("end")
        await eventually(lambda: ("end", {}) in seen)
    assert seen == [{"x": 1}, ("end", {})]


@both
async def test_stop_may_be_called_by_a_handler(daemon: ScriptedDaemon) -> None:
    client = P2PClient()
    seen: Seen = []
    stopped = anyio.Event()

    async def enough(_: Any) -> None:
        with waiting_in_vain():
            await client.stop()
        stopped.set()

    client.on("peer:connect", enough)
    listen(client, seen)
    await client.start()
    connect_peer(daemon)
    await stopped.wait()
    assert not client.is_started()
    assert await has(seen, "p2p:stopped") == {"peerId": OWN}
    await eventually(lambda: not following())
    await client.start()
    assert client.is_started()
    await client.stop()


@both
async def test_stop_may_be_called_by_the_handler_of_the_start(daemon: ScriptedDaemon) -> None:
    client = P2PClient()

    async def at_once(_: Any) -> None:
        await client.stop()

    client.on("p2p:started", at_once)
    with waiting_in_vain():
        await client.start()
    await eventually(lambda: not following())
    assert not client.is_started()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handler_that_never_ends_does_not_hold_up_stop(
    backend: str, daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabstir_client._async.p2p.DELIVERED_WITHIN", 0.1)
    monkeypatch.setattr("fabstir_client._async.p2p.ENDED_WITHIN", 0.1)

    async def main(daemon: ScriptedDaemon) -> None:
        client = P2PClient()
        client.on("peer:connect", lambda _: anyio.sleep_forever())
        await client.start()
        connect_peer(daemon)
        await client.stop()
        assert daemon.state == "stopped"

    anyio.run(bounded, main, daemon, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_that_ends_without_stop_takes_the_thread_along(backend: str, daemon: ScriptedDaemon) -> None:
    async def main(daemon: ScriptedDaemon) -> None:
        client = P2PClient()
        client.on("note", lambda _: None)
        await client.start()

    anyio.run(bounded, main, daemon, backend=backend)
    assert len(following()) == 1
    daemon.publish("note")
    wait_until(lambda: not following())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loop_that_ends_in_the_middle_of_a_handler_takes_the_thread_along(
    backend: str, daemon: ScriptedDaemon
) -> None:
    async def main(daemon: ScriptedDaemon) -> None:
        begun = anyio.Event()

        async def handler(_: Any) -> None:
            begun.set()
            await anyio.sleep_forever()

        client = P2PClient()
        client.on("note", handler)
        await client.start()
        daemon.publish("note")
        await begun.wait()

    anyio.run(bounded, main, daemon, backend=backend)
    wait_until(lambda: not following())


@both
async def test_the_daemon_is_lost_and_comes_back(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    async with P2PClient() as client:
        listen(client, seen)
        daemon.stop()
        assert (await has(seen, "error"))["type"] == "CONNECTION_LOST"
        assert not client.is_started()
        daemon.epoch, daemon.log = "run-2", []
        daemon.publish("p2p:started", peerId=OWN, listenAddresses=[])
        daemon.start()
        assert await has(seen, "lagged") == {"missed": None, "resume": 1}
        assert await has(seen, "p2p:started") == {"peerId": OWN, "listenAddresses": []}
        assert client.is_started()


@both
async def test_a_node_that_somebody_else_stops(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    async with P2PClient() as client:
        listen(client, seen)
        async with fabstir_client.connect() as other:
            await other.stop()
        assert await has(seen, "p2p:stopped") == {"peerId": OWN}
        assert not client.is_started()
        await client.start()
        assert client.is_started()
        assert len(following()) == 1


def configured(daemon: ScriptedDaemon) -> None:
    """The node runs already, with another configuration."""
    daemon.state = "started"
    start = daemon.methods["start"]

    def refuse(params: Any) -> Any:
        if daemon.state == "started":
            raise InvalidState("the node is started with another configuration")
        return start(params)

    daemon.methods["start"] = refuse


@both
async def test_another_configuration_restarts_the_node(daemon: ScriptedDaemon) -> None:
    configured(daemon)
    async with P2PClient({"maxRetries": 1}) as client:
        assert client.is_started()
        assert [method for method, _ in daemon.calls] == ["subscribe", "start", "stop", "start"]


@both
async def test_another_configuration_is_refused_where_that_is_asked_for(daemon: ScriptedDaemon) -> None:
    configured(daemon)
    client = P2PClient({"maxRetries": 1}, restart=False)
    with pytest.raises(InvalidState):
        await client.start()
    assert not client.is_started()
    assert following() == []


@both
async def test_a_start_that_fails_leaves_no_thread(daemon: ScriptedDaemon) -> None:
    start = daemon.methods["start"]

    def refuse(params: Any) -> Any:
        raise ListenFailed("address in use", address="/ip4/1.2.3.4/tcp/1", reason="in use")

    daemon.methods["start"] = refuse
    client = P2PClient()
    with pytest.raises(ListenFailed):
        await client.start()
    assert following() == []
    daemon.methods["start"] = start
    await client.start()
    await client.stop()


@both
async def test_a_start_that_is_cancelled_leaves_no_thread(daemon: ScriptedDaemon) -> None:
    never = threading.Event()
    daemon.methods["start"] = lambda params: never.wait(WITHIN)
    client = P2PClient()
    with anyio.move_on_after(0.05) as scope:
        await client.start()
    assert scope.cancelled_caught
    assert following() == []
    never.set()


@both
async def test_without_a_daemon(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    client = P2PClient(api="ipc:/nonexistent")
    listen(client, seen)
    with pytest.raises(DaemonUnreachable):
        await client.start()
    assert not client.is_started()
    assert following() == []
    assert seen == []  # it was raised; telling it twice would be once too many


@both
async def test_what_a_stopped_node_answers(daemon: ScriptedDaemon) -> None:
    def refuse(params: Any) -> Any:
        raise NodeNotRunning("stopped")

    daemon.methods["peers"] = daemon.methods["addresses"] = refuse
    daemon.methods["version"] = lambda params: {"version": "1", "python": "3", "libp2p": "0", "protocols": ["/x/1"]}
    client = P2PClient()
    assert await client.get_connected_peers() == []
    assert await client.get_listen_addresses() == []
    assert await client.get_peer_id() == OWN
    assert (await client.get_detailed_status()).state == "stopped"
    assert await client.get_registered_protocols() == ["/x/1"]


def test_a_wrong_configuration_is_told_at_once() -> None:
    for kind in (P2PClient, sync.P2PClient):
        with pytest.raises(InvalidConfig, match="bootstrapnodes"):
            kind({"bootstrapnodes": []})


# The blocking twins


def test_a_blocking_life(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    threads: set[str] = set()
    client = sync.P2PClient({"bootstrapNodes": []})
    listen(client, seen)
    client.on("peer:connect", lambda _: threads.add(threading.current_thread().name))
    client.stop()
    for _ in range(3):
        client.start()
        assert (client.is_started(), client.get_status()) == (True, "started")
        assert seen == [("p2p:started", {"peerId": OWN, "listenAddresses": []})]
        connect_peer(daemon)
        wait_until(lambda: ("peer:connect", PEER) in seen)
        assert client.get_connected_peers() == [PEER]
        client.stop()
        assert seen[2:] == [("peer:disconnect", PEER), ("p2p:stopped", {"peerId": OWN})]
        assert following() == []
        seen.clear()
    assert threads == {"fabstir_client events"}


def test_a_blocking_stop_by_a_handler(daemon: ScriptedDaemon) -> None:
    client = sync.P2PClient()
    client.on("peer:connect", lambda _: client.stop())
    client.start()
    connect_peer(daemon)
    wait_until(lambda: not following())
    assert daemon.state == "stopped"
    assert not client.is_started()


def test_a_blocking_client_takes_no_coroutines(daemon: ScriptedDaemon) -> None:
    async def handler(_: Any) -> None: ...

    for emitter in (sync.P2PClient(), sync.FabstirSDK()):
        with pytest.raises(TypeError, match="coroutine function"):
            emitter.on("peer:connect", handler)


def test_a_blocking_start_that_fails(daemon: ScriptedDaemon) -> None:
    with pytest.raises(DaemonUnreachable):
        sync.P2PClient(api="ipc:/nonexistent").start()
    configured(daemon)
    with pytest.raises(InvalidState):
        sync.P2PClient({"maxRetries": 1}, restart=False).start()
    with sync.P2PClient({"maxRetries": 1}) as client:
        assert client.is_started()


@pytest.mark.parametrize(("kind", "twin"), [(P2PClient, sync.P2PClient), (FabstirSDK, sync.FabstirSDK)])
def test_the_surface_is_the_same_in_both(kind: type, twin: type) -> None:
    assert [n for n in dir(kind) if not n.startswith("_")] == [n for n in dir(twin) if not n.startswith("_")]
