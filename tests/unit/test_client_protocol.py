"""The client's sans-I/O half: ids, pending calls, decoding, framing, and the position in a stream of events."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir_client._core import calls
from fabstir_client._core.cursor import FIRST_DELAY, LAST_DELAY, Cursor
from fabstir_client._core.frames import Lines
from fabstir_client._core.protocol import Heartbeat, Pending, Session
from fabstir_client.api import types
from fabstir_client.api.errors import (
    BadAnswer,
    ConnectionLost,
    InvalidConfig,
    InvalidParams,
    NodeNotRunning,
    RpcError,
    TooLarge,
)
from fabstir_client.api.types import Event, Lagged, PeerConnected


def message(**parts: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **parts}).encode()


def notification(method: str, **params: Any) -> bytes:
    return message(method=method, params={"subscription": "s", **params})


def test_a_request_is_json_rpc_2() -> None:
    pending, request = Session[None]().begin(calls.connect("/ip4/1.2.3.4/tcp/1/p2p/x", 500), None)
    assert json.loads(request) == {
        "jsonrpc": "2.0",
        "id": pending.id,
        "method": "connect",
        "params": {"address": "/ip4/1.2.3.4/tcp/1/p2p/x", "timeout": 500},
    }


def test_parameters_that_are_not_given_are_left_out() -> None:
    _, request = Session[None]().begin(calls.connect("x", None), None)
    assert json.loads(request)["params"] == {"address": "x"}


def test_answers_settle_their_own_calls_in_any_order() -> None:
    session: Session[str] = Session()
    first, _ = session.begin(calls.status(), "first")
    second, _ = session.begin(calls.peers(), "second")
    assert first.id != second.id
    settled = session.receive(message(id=second.id, result=[]))
    assert isinstance(settled, Pending)
    assert settled.waiter == "second"
    assert calls.peers().read(settled.take()) == []
    assert first.outcome is None
    assert session.receive(message(id=first.id, error={"code": -32001, "message": "not started"})) is first
    with pytest.raises(NodeNotRunning, match="not started"):
        first.take()


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.status(), None)
    session.forget(pending)
    assert session.receive(message(id=pending.id, result={})) is None
    assert session.receive(message(id=99, result={})) is None
    assert session.receive(message(id="x", result={})) is None


def test_an_error_carries_its_details() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.status(), None)
    data = {"code": "TIMEOUT", "retryable": False, "after": 5}
    session.receive(message(id=pending.id, error={"code": -32002, "message": "late", "data": data}))
    with pytest.raises(RpcError) as caught:
        pending.take()
    assert (caught.value.code, caught.value.retryable, caught.value.data) == ("TIMEOUT", False, {"after": 5})


def test_an_error_without_an_id_is_the_lone_callers() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.status(), None)
    with pytest.raises(TooLarge) as caught:
        session.receive(message(id=None, error={"code": -32003, "message": "line too long"}))
    assert session.fail(caught.value) == [pending]
    with pytest.raises(TooLarge):
        pending.take()


def test_an_error_without_an_id_is_the_connections_where_several_wait() -> None:
    session: Session[None] = Session()
    waiting = [session.begin(calls.status(), None)[0] for _ in range(2)]
    assert session.fail(TooLarge("line too long")) == waiting
    for pending in waiting:
        with pytest.raises(ConnectionLost, match="line too long"):
            pending.take()


@pytest.mark.parametrize(
    "text", [b"", b"nonsense", b"[]", b"7", b'{"id":{}}', b'{"method":"event","params":{"seq":"x"}}']
)
def test_what_is_not_json_rpc_is_a_bad_answer(text: bytes) -> None:
    with pytest.raises(BadAnswer, match="not JSON-RPC"):
        Session[None]().receive(text)


def test_an_answer_with_neither_result_nor_error_is_bad() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.status(), None)
    session.receive(message(id=pending.id))
    with pytest.raises(BadAnswer, match="neither"):
        pending.take()


def test_null_is_a_result() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.any_method("x", None, None), None)
    session.receive(message(id=pending.id, result=None))
    assert calls.any_method("x", None, None).read(pending.take()) is None


def test_a_result_of_another_shape_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer, match=r"status.*peerId|status.*missing"):
        calls.status().read(msgspec.Raw(b'{"state":"started"}'))


def test_fields_that_this_version_does_not_know_are_ignored() -> None:
    raw = b'{"peerId":"x","closed":1,"invented":"later"}'
    assert calls.disconnect("x").read(msgspec.Raw(raw)) == types.DisconnectResult("x", 1)


def test_an_event_carries_typed_data() -> None:
    data = {"peerId": "x", "address": "/ip4/1.2.3.4", "direction": "inbound", "extra": 1}
    item = Session[None]().receive(notification("event", epoch="e", seq=3, time=9, type="peer:connect", data=data))
    assert item == Event("e", 3, 9, "peer:connect", PeerConnected("x", "/ip4/1.2.3.4", "inbound"))


def test_an_event_of_an_unknown_type_carries_a_dict() -> None:
    item = Session[None]().receive(notification("event", epoch="e", seq=3, time=9, type="later:on", data={"aB": [1]}))
    assert isinstance(item, Event)
    assert item.data == {"aB": [1]}


def test_plain_data_loses_nothing() -> None:
    data = {"peerId": "x", "address": "a", "direction": "inbound", "extra": 1}
    session: Session[None] = Session(typed=False)
    item = session.receive(notification("event", epoch="e", seq=3, time=9, type="peer:connect", data=data))
    assert isinstance(item, Event)
    assert item.data == data


def test_lag_heartbeat_and_unknown_notifications() -> None:
    session: Session[None] = Session()
    assert session.receive(notification("lagged", missed=4, resume=9)) == Lagged(4, 9)
    assert session.receive(notification("lagged", missed=None, resume=1)) == Lagged(None, 1)
    assert session.receive(notification("heartbeat", head=12)) == Heartbeat(12)
    assert session.receive(notification("invented", x=1)) is None


# Configuration of start()


def test_overrides_take_both_spellings() -> None:
    given = {
        "bootstrapNodes": ["a"],
        "listen_addresses": ["b"],
        "enableDHT": False,
        "enable_mdns": True,
        "maxRetries": 0,
    }
    expected = types.NodeOverrides(
        bootstrap_nodes=["a"], listen_addresses=["b"], enable_dht=False, enable_mdns=True, max_retries=0
    )
    assert calls.overrides(given) == expected
    assert calls.overrides(expected) is expected
    assert calls.overrides(None) is None


def test_overrides_go_out_in_camel_case_and_only_those_given() -> None:
    _, request = Session[None]().begin(calls.start({"enable_dht": False, "retry_delay": 5, "maxRetries": None}), None)
    assert json.loads(request)["params"] == {"config": {"enableDHT": False, "retryDelay": 5}}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"bootstrapnodes": []}, "unknown key 'bootstrapnodes'.*known: bootstrapNodes"),
        ({"dialTimeout": "30"}, r"dialTimeout"),
        ({"bootstrapNodes": "/ip4/1.2.3.4"}, "bootstrapNodes"),
        ({"bootstrap_nodes": [1]}, "bootstrapNodes"),
        ({"maxRetries": 1, "max_retries": 2}, "twice"),
        ([1], "mapping"),
    ],
)
def test_a_wrong_configuration_names_the_key(config: Any, text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        calls.overrides(config)


@pytest.mark.parametrize("params", ["text", b"bytes", 7])
def test_parameters_must_be_a_mapping_or_a_sequence(params: Any) -> None:
    with pytest.raises(InvalidConfig):
        calls.any_method("x", params, None)


@pytest.mark.parametrize("params", [{"x": object()}, [1j]])
def test_parameters_that_json_cannot_say(params: Any) -> None:
    with pytest.raises(InvalidConfig, match="cannot be written as JSON"):
        Session[None]().begin(calls.any_method("x", params, None), None)


def test_a_call_is_waited_for_a_little_longer_than_its_own_timeout() -> None:
    assert calls.connect("x", None).bound == 60
    assert calls.connect("x", 2_000).bound == 3
    assert calls.ping("x", 120_000).bound == 121
    assert calls.any_method("events", {"timeout": 90_000}, None).bound == 91
    assert calls.any_method("events", {"timeout": 90_000}, 3).bound == 3
    assert calls.any_method("status", None, None).bound == 60


# Framing


@given(
    st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b and b.strip())), st.randoms(use_true_random=False)
)
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], random: Any) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    framing, found = Lines(), []
    while stream:
        cut = random.randint(1, len(stream))
        found += framing.feed(stream[:cut])
        stream = stream[cut:]
    assert found == lines


def test_the_end_of_the_stream_is_the_loss_of_the_connection() -> None:
    framing = Lines()
    assert framing.feed(b'{"half') == []
    with pytest.raises(ConnectionLost):
        framing.feed(b"")


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabstir_client._core.frames.MAX_MESSAGE", 100)
    framing = Lines()
    assert framing.feed(b"x" * 100) == []
    with pytest.raises(BadAnswer, match="more than 100 bytes"):
        framing.feed(b"x")


# The position in a stream


def subscribed(epoch: str, head: int) -> types.SubscribeResult:
    status = types.Status("started", True, "x", 0, 0, [], [], "0", epoch, head)
    return types.SubscribeResult("s", epoch, head, status, [])


def event(epoch: str, seq: int) -> Event:
    return Event(epoch, seq, 0, "x", {})


def params(cursor: Cursor, probed: types.Status | None = None) -> Any:
    return msgspec.to_builtins(cursor.subscribe(probed).params)


def test_a_new_stream_begins_now_and_goes_on_where_it_stood() -> None:
    cursor = Cursor(["a"], None, None)
    assert cursor.probe() is None
    assert params(cursor) == {"types": ["a"]}
    assert cursor.subscribed(subscribed("e", 7)) == []
    assert cursor.take(event("e", 9)) == event("e", 9)
    assert cursor.probe() is not None
    assert params(cursor, subscribed("e", 20).status) == {"types": ["a"], "after": 9, "epoch": "e"}


def test_what_arrived_but_was_not_taken_is_asked_for_again() -> None:
    cursor = Cursor(None, None, None)
    cursor.subscribed(subscribed("e", 7))
    assert params(cursor, subscribed("e", 20).status)["after"] == 7


def test_a_heartbeat_moves_past_what_the_filter_held_back() -> None:
    cursor = Cursor(["a"], None, None)
    cursor.subscribed(subscribed("e", 7))
    assert cursor.take(Heartbeat(5000)) is None
    assert cursor.take(Heartbeat(4000)) is None
    assert params(cursor, subscribed("e", 5000).status)["after"] == 5000


def test_a_lag_is_handed_on_and_moved_past() -> None:
    cursor = Cursor(None, 3, None)
    assert params(cursor) == {"after": 3}
    cursor.subscribed(subscribed("e", 90))
    assert cursor.take(Lagged(6, 10)) == Lagged(6, 10)
    assert params(cursor, subscribed("e", 90).status)["after"] == 9


def test_another_run_is_read_from_its_beginning_after_a_gap() -> None:
    cursor = Cursor(None, None, None)
    cursor.subscribed(subscribed("old", 7))
    other = subscribed("new", 4)
    assert params(cursor, other.status) == {"after": 0, "epoch": "new"}
    # The attempt failed and another follows: the gap is still to be told.
    assert params(cursor, other.status) == {"after": 0, "epoch": "new"}
    assert cursor.subscribed(other) == [Lagged(None, 1)]
    assert cursor.subscribed(other) == []


def test_delays_grow_to_a_limit_and_begin_anew_after_success() -> None:
    cursor = Cursor(None, None, None)
    delays = [cursor.delay() for _ in range(20)]
    assert delays[0] == FIRST_DELAY
    assert delays[1] == 2 * FIRST_DELAY
    assert delays[-1] == LAST_DELAY
    cursor.subscribed(subscribed("e", 1))
    assert cursor.delay() == FIRST_DELAY


def test_params_with_a_wrong_after_are_the_callers_mistake() -> None:
    session: Session[None] = Session()
    pending, _ = session.begin(calls.subscribe(None, 99, None), None)
    session.receive(message(id=pending.id, error={"code": -32602, "message": "after is 99"}))
    with pytest.raises(InvalidParams):
        pending.take()
