"""Events as they are subscribed to, and as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import get_native_id

import pytest
import trio

from fabstir_client.api import errors, types
from fabstir_client.api import events as types_events
from tests.functional.asking import (
    STREAMS,
    TRANSPORTS,
    asking,
    connecting,
    error,
    held,
    keys,
    request,
    result,
)
from tests.harness import Connection, Json, Process, process
from tests.support.minipeer import mini_peer

# --------------------------------------------------------------------------------------------------------------------
# Subscriptions


async def cycle(connection: Connection) -> None:
    """Four entries in the log: a stop and a start, twice."""
    for method in ("stop", "start", "stop", "start"):
        await connection.call(method)


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_subscription_replays_what_it_has_not_seen_and_goes_on(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection, asking(plain, "ipc") as ask:
        await cycle(connection)
        before = await connection.call("status")
        await connection.send(request("subscribe", {"after": before["head"] - 3, "epoch": before["epoch"]}))
        reply = await connection.receive()
        assert reply["id"] == "x"  # never after its first notification
        subscribed = held(reply["result"], types.SubscribeResult)
        assert (subscribed.head, subscribed.epoch) == (before["head"], before["epoch"])
        assert (subscribed.status.head, subscribed.status.state, subscribed.peers) == (before["head"], "started", [])
        async with mini_peer() as peer:
            await result(ask, "connect", [await peer.listen()])
            events = [await connection.notification() for _ in range(4)]
            await result(ask, "disconnect", [peer.peer_id])
        for number, event in enumerate(events, before["head"] - 2):
            keys(event, "jsonrpc method params")
            assert (event["jsonrpc"], event["method"]) == ("2.0", "event")
            keys(event["params"], "subscription epoch seq time type data")
            assert (event["params"]["subscription"], event["params"]["seq"]) == (subscribed.subscription, number)
            held(event["params"]["data"], types_events.EVENT_DATA[event["params"]["type"]])
        assert [event["params"]["type"] for event in events] == [
            "p2p:started",
            "p2p:stopped",
            "p2p:started",
            "peer:connect",
        ]
        assert events[-1]["params"]["data"]["peerId"] == peer.peer_id


@pytest.mark.parametrize("transport", STREAMS)
async def test_no_notification_comes_before_the_reply(plain: Process, transport: str) -> None:
    """Even where that takes its time, and there is plenty to tell."""
    async with connecting(plain, transport) as connection:
        head = (await connection.call("status"))["head"]
        slow = {"after": head, "timeout": 200}
        await connection.send([request("events", slow), request("subscribe", {"after": 0})])
        replies = await connection.receive()
        assert [set(reply) for reply in replies] == [{"jsonrpc", "result", "id"}] * 2
        assert (await connection.notification())["params"]["seq"] == 1


async def test_the_snapshot_is_of_one_instant(plain: Process) -> None:
    async with connecting(plain, "ipc") as connection, mini_peer() as peer:
        await connection.call("connect", [await peer.listen()])
        subscribed = await connection.call("subscribe")
        assert [one["peerId"] for one in subscribed["peers"]] == [peer.peer_id]
        assert (subscribed["status"]["peers"], subscribed["status"]["head"]) == (1, subscribed["head"])
        await connection.call("disconnect", [peer.peer_id])
        event = await connection.notification("event")
        while event["params"]["type"] == "peer:identify":
            event = await connection.notification("event")
        assert event["params"]["type"] == "peer:disconnect"


@pytest.mark.parametrize("transport", STREAMS)
async def test_only_the_types_that_were_asked_for(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        await connection.call("subscribe", {"types": ["p2p:stopped"]})
        await cycle(connection)
        found = [await connection.notification() for _ in range(2)]
        assert [one["params"]["type"] for one in found] == ["p2p:stopped", "p2p:stopped"]
        assert found[1]["params"]["seq"] == found[0]["params"]["seq"] + 2


@pytest.mark.parametrize("transport", STREAMS)
async def test_another_epoch_is_a_gap_of_unknown_size(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        for after in (0, 10**9):
            subscribed = await connection.call("subscribe", {"after": after, "epoch": "another"})
            lagged = await connection.notification()
            assert lagged == {
                "jsonrpc": "2.0",
                "method": "lagged",
                "params": {
                    "subscription": subscribed["subscription"],
                    "missed": None,
                    "resume": subscribed["head"] + 1,
                },
            }
            await connection.call("unsubscribe", [subscribed["subscription"]])
        await connection.call("subscribe", {"after": 0, "epoch": "another", "types": ["p2p:stopped"]})
        assert (await connection.notification())["method"] == "lagged"
        await cycle(connection)
        assert (await connection.notification())["params"]["seq"] == lagged["params"]["resume"]


@pytest.mark.parametrize("transport", STREAMS)
async def test_an_entry_that_is_gone_is_a_gap_that_is_counted(tight: Process, transport: str) -> None:
    async with connecting(tight, transport) as connection:
        await cycle(connection)
        await cycle(connection)
        subscribed = await connection.call("subscribe", {"after": 1})
        lagged = await connection.notification()
        resume = subscribed["head"] - 4  # the oldest of the five that are kept
        assert lagged["params"] == {
            "subscription": subscribed["subscription"],
            "missed": resume - 2,
            "resume": resume,
        }
        found = [(await connection.notification("event"))["params"]["seq"] for _ in range(5)]
        assert found == list(range(resume, resume + 5))


@pytest.mark.parametrize("transport", STREAMS)
async def test_wrong_subscriptions_are_refused_and_begin_nothing(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        head = (await result(ask, "status"))["head"]
        for params, param in (
            ({"after": head + 1}, "after"),
            ({"after": head + 1, "epoch": plain.api["epoch"]}, "after"),
            ({"after": -1}, "after"),
            ({"types": ["peer:konnect"]}, "types"),
            ({"types": [1]}, "types[0]"),
            ({"epoch": 1}, "epoch"),
        ):
            found = await error(ask, "subscribe", params)
            assert (type(found), found.data["param"]) == (errors.InvalidParams, param)
        for name in ("s1", "nonsense"):
            found = await error(ask, "unsubscribe", [name])
            assert (type(found), found.data) == (errors.InvalidParams, {"param": "subscription"})


async def test_there_are_no_subscriptions_over_http(plain: Process) -> None:
    async with asking(plain, "http") as ask:
        for method, params in (("subscribe", None), ("unsubscribe", ["s1"])):
            assert type(await error(ask, method, params)) is errors.MethodNotFound


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_silence_is_full_of_heartbeats(tight: Process, transport: str) -> None:
    async with connecting(tight, transport) as connection:
        began = trio.current_time()
        subscribed = await connection.call("subscribe", {"types": []})
        for beats in (1, 2):
            assert await connection.notification() == {
                "jsonrpc": "2.0",
                "method": "heartbeat",
                "params": {"subscription": subscribed["subscription"], "head": subscribed["head"]},
            }
            assert trio.current_time() - began >= beats * 0.2 - 0.05
        await cycle(connection)  # none of it concerns this subscription: it is silence, and the head goes on
        with trio.fail_after(60):
            while (await connection.notification("heartbeat"))["params"]["head"] != subscribed["head"] + 4:
                pass


@pytest.mark.parametrize("transport", STREAMS)
async def test_subscriptions_of_one_connection_are_apart(plain: Process, transport: str) -> None:
    async with connecting(plain, transport) as connection:
        stopped = await connection.call("subscribe", {"types": ["p2p:stopped"]})
        started = await connection.call("subscribe", {"types": ["p2p:started"]})
        assert stopped["subscription"] != started["subscription"]
        await connection.call("stop")
        await connection.call("start")
        found = [await connection.notification() for _ in range(2)]
        assert {(one["params"]["type"], one["params"]["subscription"]) for one in found} == {
            ("p2p:stopped", stopped["subscription"]),
            ("p2p:started", started["subscription"]),
        }
        await connection.call("unsubscribe", [stopped["subscription"]])
        assert connection.notifications == []
        await cycle(connection)
        found = [await connection.notification() for _ in range(2)]
        assert {one["params"]["subscription"] for one in found} == {started["subscription"]}
        assert (await connection.error("unsubscribe", [stopped["subscription"]]))["code"] == -32602


@pytest.fixture(scope="module")
def busy() -> Iterator[Process]:
    """A daemon that, once its node is started, publishes events of 15 KB as fast as it can: its bootstrap node cannot
    be dialled, and is tried again at once and without end."""
    settings = {
        "node.auto_start": False,
        "node.bootstrap_nodes": ["/ip4/127.0.0.1/tcp/1/p2p/" + "0" * 15000],
        "node.max_retries": 10**9,
        "node.retry_delay": 0,
        "events.history": 5,
        "log.level": "warning",
    }
    with process(settings) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)


def worked(running: Process) -> float:
    """Seconds that the event loop's thread has run: how long an answer takes by the clock depends on what else runs."""
    return int(Path(f"/proc/{running.pid}/task/{running.pid}/schedstat").read_text().split()[0]) / 1e9


def own_time() -> float:
    """Seconds that our thread has run, or has waited for its turn: as long may an answer have lain here, while the
    daemon went on."""
    ran, waited, _ = Path(f"/proc/self/task/{get_native_id()}/schedstat").read_text().split()
    return (int(ran) + int(waited)) / 1e9


@pytest.mark.parametrize("transport", STREAMS)
async def test_a_reader_that_is_stuck_delays_nobody_and_is_told_what_it_missed(busy: Process, transport: str) -> None:
    """Its socket fills, the log's five entries go past it; what it then reads is whole or says how much is missing."""
    async with connecting(busy, transport) as stuck, asking(busy, "ipc") as ask:
        subscribed = await stuck.call("subscribe")
        before = subscribed["head"]
        await result(ask, "start")
        most, head = 0.0, before
        while head < before + 1000:  # 15 MB
            ran, ours = worked(busy), own_time()
            head = (await result(ask, "status"))["head"]
            most = max(most, worked(busy) - ran - (own_time() - ours))
        assert most < 1, "for so many seconds the daemon did something else first"
        head = (await result(ask, "stop"))["head"]
        seen, missed = before, 0
        while seen < head:
            message = await stuck.notification()
            if message["method"] == "event":
                assert message["params"]["seq"] == seen + 1
                seen = message["params"]["seq"]
            elif message["method"] == "lagged":
                assert message["params"]["missed"] == message["params"]["resume"] - seen - 1 > 0
                seen = message["params"]["resume"] - 1
                missed += message["params"]["missed"]
            assert message["params"]["subscription"] == subscribed["subscription"]
        assert missed > 0, "the reader was never stuck"


# --------------------------------------------------------------------------------------------------------------------
# The long poll


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_events_waits_for_something_new(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask, asking(plain, "ipc") as other, mini_peer() as peer:
        address = await peer.listen()
        head = (await result(ask, "status"))["head"]
        answers: list[Json] = []

        async def poll() -> None:
            answers.append(await result(ask, "events", {"after": head, "types": ["peer:connect"], "timeout": 60000}))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await result(other, "connect", [address])
        (answer,) = answers
        assert (answer["epoch"], answer["missed"]) == (plain.api["epoch"], 0)
        (event,) = answer["events"]
        assert event["type"] == "peer:connect"
        assert event["data"] == {"peerId": peer.peer_id, "address": address, "direction": "outbound"}
        assert head < event["seq"] <= answer["head"]
        await result(ask, "disconnect", [peer.peer_id])


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_events_answers_with_nothing_after_its_timeout(plain: Process, transport: str) -> None:
    async with asking(plain, transport) as ask:
        status = await result(ask, "status")
        began = trio.current_time()
        # Of a type that nothing brings about here
        answer = await result(ask, "events", {"after": status["head"], "timeout": 200, "types": ["p2p:stopped"]})
        assert 0.2 <= trio.current_time() - began < 60
        assert answer.pop("head") >= status["head"]
        assert answer == {"epoch": status["epoch"], "events": [], "missed": 0}


async def test_events_without_a_place_to_begin_is_all_there_is(plain: Process) -> None:
    async with asking(plain, "http") as ask:
        answer = await result(ask, "events")
        assert [event["seq"] for event in answer["events"]] == list(range(1, min(answer["head"], 1000) + 1))


async def test_events_are_limited_and_can_be_read_on(plain: Process) -> None:
    async with asking(plain, "ipc") as ask, connecting(plain, "ipc") as connection:
        await cycle(connection)
        head = (await result(ask, "status"))["head"]
        first = await result(ask, "events", {"after": head - 4, "limit": 3})
        assert [event["seq"] for event in first["events"]] == [head - 3, head - 2, head - 1]
        rest = await result(ask, "events", {"after": head - 1, "limit": 3})
        assert [event["seq"] for event in rest["events"]] == [head]


async def test_events_tells_what_is_gone(tight: Process) -> None:
    async with asking(tight, "http") as ask, connecting(tight, "ipc") as connection:
        await cycle(connection)
        await cycle(connection)
        answer = await result(ask, "events", {"after": 2})
        assert answer["missed"] == answer["head"] - 5 - 2
        assert [event["seq"] for event in answer["events"]] == list(range(answer["head"] - 4, answer["head"] + 1))
        answer = await result(ask, "events", {"after": 2, "epoch": "another", "timeout": 20000})
        assert (answer["missed"], answer["events"]) == (None, [])
        found = await error(ask, "events", {"after": answer["head"] + 1})
        assert (type(found), found.data["param"]) == (errors.InvalidParams, "after")
