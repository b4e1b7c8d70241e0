"""The scripted daemon of `fabstir_client.testing`: it says what it is told, and nothing that no daemon says."""

from __future__ import annotations

import copy
import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import fabstir_client
from fabstir_client import DialFailed, Lagged, NodeNotRunning, PeerNotFound
from fabstir_client.api.errors import DeadlineExceeded, InternalError, InvalidParams, MethodNotFound
from fabstir_client.testing import PEER, NotAsDocumented, ScriptedDaemon, document
from tests.harness import schema, wait_until
from tests.unit.backends import WITHIN

DEAD = f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"
START = 0.05  # seconds that a start may take of the processor; the clock depends on what else runs
# Those that are not one answer, and those that a scripted daemon does not have
NOT_ASKED = ("subscribe", "unsubscribe", "shutdown", "stream.open", "stream.accept")
MEASURE = """
import time
from fabstir_client.testing import ScriptedDaemon
begun = time.process_time()
with ScriptedDaemon() as daemon:
    print(time.process_time() - begun)
"""


@pytest.fixture
def script() -> Iterator[ScriptedDaemon]:
    with ScriptedDaemon() as daemon:
        yield daemon


def test_it_starts_in_50_ms() -> None:
    """The first one of a process, which reads the document; the fastest of them, as a busy machine makes all slower."""
    took: list[float] = []
    while not took or (min(took) >= START and len(took) < 30):
        run = subprocess.run(
            [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=WITHIN, check=True
        )
        took.append(float(run.stdout))
    assert min(took) < START


def test_it_is_found_as_a_real_one_is(script: ScriptedDaemon) -> None:
    with script.connect_sync() as client:
        assert client.status().peer_id == script.peer_id
    with fabstir_client.connect_sync(data_dir=script.data_dir) as client:
        assert client.status().state == "started"
    with fabstir_client.connect_sync(api=script.http, token=script.token) as client:
        assert client.version().version == document.document()["info"]["version"]
    assert script.calls == [("status", {}), ("status", {}), ("version", {})]


@pytest.mark.parametrize("name", [one for one in document.methods() if one not in NOT_ASKED])
def test_every_method_has_an_answer_that_a_daemon_may_give(script: ScriptedDaemon, name: str) -> None:
    """Held to the document by another validator than the one that holds it here."""
    params: dict[str, Any] = {}
    if examples := document.method(name).get("examples"):
        params = {param["name"]: param["value"] for param in examples[0]["params"]}
    if "timeout" in params:
        params["timeout"] = 1
    if name in ("wait", "disconnect"):
        script.connect_peer(params["peerId"], protocols=[params.get("protocol", "")])
    with socket.socket(socket.AF_UNIX) as one, one.makefile("rb") as answers:
        one.connect(str(script.data_dir / "api.sock"))
        one.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params}).encode() + b"\n")
        answer = json.loads(answers.readline())
    assert "result" in answer, answer
    schema.hold_message(answer, name if name != "rpc.discover" else None)


def test_answers_in_order_and_the_last_one_stays(script: ScriptedDaemon) -> None:
    failed = DialFailed("no address of the peer works", peerId=PEER, errors={DEAD: "connection refused"})
    known = {"peerId": PEER, "address": DEAD, "direction": "outbound", "alreadyConnected": False}
    script.answer("connect", failed, known, lambda params: known | {"address": params["address"]})
    with script.connect_sync() as client:
        with pytest.raises(DialFailed, match="no address") as raised:
            client.connect(DEAD)
        assert raised.value.data["errors"] == {DEAD: "connection refused"}
        assert not client.connect(DEAD).already_connected
        assert client.connect(f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}").address.startswith("/ip4/192.0.2.1")
        assert client.connect(DEAD).address == DEAD
        script.answer("version", client.version())  # a record of the client is an answer, too
        assert client.version().version


def test_peers_come_and_go_and_the_log_tells_of_it(script: ScriptedDaemon) -> None:
    with script.connect_sync() as client:
        assert not client.connect(DEAD).already_connected
        assert client.connect(PEER).already_connected
        script.peers[0]["agentVersion"] = "kubo/0.32.0"
        assert [(one.peer_id, one.agent_version) for one in client.peers()] == [(PEER, "kubo/0.32.0")]
        assert client.wait(peer_id=PEER, timeout=1).status.peers == 1
        assert client.disconnect(PEER).closed == 1
        with pytest.raises(PeerNotFound):
            client.disconnect(PEER)
        with pytest.raises(DeadlineExceeded):
            client.wait(peers=1, timeout=1)
        client.stop()
        with pytest.raises(NodeNotRunning):
            client.ping(PEER)
        client.start({"listenAddresses": ["/ip4/127.0.0.1/tcp/7"]})
        assert client.status().listen_addresses == [f"/ip4/127.0.0.1/tcp/7/p2p/{script.peer_id}"]
        with client.events(after=0) as told:
            kinds = [next(told).type for _ in range(4)]
        assert kinds == ["peer:connect", "peer:disconnect", "p2p:stopped", "p2p:started"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_reader_that_misses_events_and_a_restart(script: ScriptedDaemon, backend: str) -> None:
    async def follow() -> None:
        with anyio.fail_after(WITHIN):
            async with script.connect() as client, client.events() as events:
                script.connect_peer()
                assert (await events.__anext__()).type == "peer:connect"
                script.stop()
                for _ in range(3):
                    script.disconnect_peer()
                    script.connect_peer()
                script.forget(5)
                script.start()
                assert await events.__anext__() == Lagged(4, 6)
                assert [(await events.__anext__()).seq for _ in range(2)] == [6, 7]
                script.restart()
                assert await events.__anext__() == Lagged(None, 1)

    anyio.run(follow, backend=backend)


def test_what_no_daemon_says_is_refused(script: ScriptedDaemon) -> None:
    status = document.example("status")
    for wrong, words in (
        ({**status, "peers": "none"}, "result of status.peers: must be of type integer, not 'none'"),
        ({**status, "mood": "good"}, "result of status: there is no mood"),
        ({name: value for name, value in status.items() if name != "head"}, "result of status: head is missing"),
        ({**status, "state": "asleep"}, "result of status.state: must be one of .*stopping"),
    ):
        with pytest.raises(NotAsDocumented, match=words):
            script.answer("status", wrong)
    with pytest.raises(NotAsDocumented, match="status never fails with DIAL_FAILED"):
        script.answer("status", DialFailed("no", addresses={}))
    with pytest.raises(NotAsDocumented, match="data of DIAL_FAILED: peerId is missing"):
        script.answer("connect", DialFailed("no"))
    with pytest.raises(NotAsDocumented, match="no method fly"):
        script.answer("fly", {})
    with pytest.raises(NotAsDocumented, match="no event peer:wave"):
        script.publish("peer:wave")
    with pytest.raises(NotAsDocumented, match=r"event peer:connect\.data: peerId is missing"):
        script.publish("peer:connect", address=DEAD, direction="inbound")
    assert script.log == []


def test_callers_are_told_what_is_wrong_with_their_calls(script: ScriptedDaemon) -> None:
    with script.connect_sync() as client:
        with pytest.raises(MethodNotFound):
            client.call("fly")
        for params, words in (
            ({"peer": PEER}, "no parameter peer"),
            ({}, "needs the parameter peerId"),
            ([PEER, 1, 2], "takes 2 parameters at most"),
            ([7], "must be of type string"),
        ):
            with pytest.raises(InvalidParams, match=words):
                client.call("ping", params)
    assert script.calls == []


def test_a_function_that_says_what_no_daemon_says_fails_its_test() -> None:
    def test() -> None:
        with ScriptedDaemon() as daemon, daemon.connect_sync() as client:
            daemon.answer("ping", lambda params: {"rtt": "fast"})
            with pytest.raises(InternalError):
                client.ping(PEER)

    with pytest.raises(NotAsDocumented, match="result of ping: peerId is missing"):
        test()


def mutated(drawn: random.Random, value: Any) -> Any:
    """The value with one thing in it changed, left out or added."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and drawn.random() < 0.9:
        name = drawn.choice(list(value))
        what = drawn.random()
        if what < 0.2:
            del value[name]
        elif what < 0.3:
            value["added"] = 1
        else:
            value[name] = mutated(drawn, value[name])
        return value
    if isinstance(value, list) and value and drawn.random() < 0.8:
        value[0] = mutated(drawn, value[0])
        return value
    return drawn.choice([None, True, 1, 1.5, "text", [], {}, value])


def test_it_judges_as_a_whole_validator_of_json_schema_does() -> None:
    drawn = random.Random(16)
    verdicts = set()
    for name, method in document.methods().items():
        for example in method.get("examples", ()):
            for _ in range(40):
                value = mutated(drawn, example["result"]["value"])
                found = []
                for hold, error in (
                    (document.hold_result, NotAsDocumented),
                    (lambda name, value: schema.hold_result(value, name), schema.NotAsDocumented),
                ):
                    try:
                        hold(name, value)
                        found.append(True)
                    except error:
                        found.append(False)
                assert found[0] == found[1], (name, value)
                verdicts.add(found[0])
    assert verdicts == {True, False}


def test_it_has_no_streams() -> None:
    def test() -> None:
        with ScriptedDaemon() as daemon, daemon.connect_sync() as client, pytest.raises(InternalError):
            client.open_stream(PEER, "/echo/1.0.0").__enter__()

    with pytest.raises(NotImplementedError, match="fabstird_pair"):
        test()


def test_a_shutdown_ends_it(script: ScriptedDaemon) -> None:
    with script.connect_sync() as client:
        client.shutdown()
        wait_until(lambda: not (script.data_dir / "api.sock").exists())

        def ended() -> bool:
            try:
                client.status()
            except fabstir_client.FabstirError:
                return True
            return False  # connections that are open end a moment after the socket

        wait_until(ended)
