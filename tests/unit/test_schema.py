"""What the tests hold every daemon to is strict: nothing undocumented passes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.schema import Conversation, NotAsDocumented

PING = {"peerId": "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", "rtt": 0.4}
ERROR = {"code": -32004, "message": "not connected", "data": {"code": "PEER_NOT_FOUND", "retryable": False}}
LOST = {**ERROR, "data": {**ERROR["data"], "peerId": PING["peerId"]}}  # type: ignore[dict-item]
EVENT = {"subscription": "s1", "epoch": "e", "seq": 1, "time": 1, "type": "p2p:stopped", "data": {"peerId": "12D3"}}


def answered(method: str, **answer: Any) -> None:
    conversation = Conversation()
    conversation.sent(json.dumps({"jsonrpc": "2.0", "id": "x", "method": method}))
    conversation.received(json.dumps({"jsonrpc": "2.0", "id": "x", **answer}))


def notified(method: str, params: Any) -> None:
    Conversation().received(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


def test_what_is_documented_passes() -> None:
    answered("ping", result=PING)
    answered("ping", error=LOST)
    notified("event", EVENT)
    notified("lagged", {"subscription": "s1", "missed": None, "resume": 1})
    notified("heartbeat", {"subscription": "s1", "head": 0})


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("ping", {"result": {**PING, "extra": 1}}),
        ("ping", {"result": {"peerId": PING["peerId"]}}),
        ("ping", {"result": {**PING, "rtt": "0.4"}}),
        ("ping", {"result": PING, "extra": 1}),
        ("ping", {"error": {**LOST, "extra": 1}}),
        ("ping", {"error": {**LOST, "code": -32000}}),
        ("ping", {"error": {**LOST, "data": {**LOST["data"], "extra": 1}}}),  # type: ignore[dict-item]
        ("ping", {"error": ERROR}),  # whom it is about is missing
        ("ping", {"error": {**LOST, "data": {"code": "NO_SUCH_CODE", "retryable": False}}}),
        ("status", {"error": LOST}),  # which it does not declare
    ],
)
def test_what_is_not_documented_fails(method: str, answer: Any) -> None:
    with pytest.raises(NotAsDocumented):
        answered(method, **answer)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("event", {**EVENT, "extra": 1}),
        ("event", {**EVENT, "type": "no:such"}),
        ("event", {**EVENT, "type": "peer:connect"}),  # whose data is another
        ("event", {**EVENT, "data": {"peerId": "12D3", "extra": 1}}),
        ("event", {name: value for name, value in EVENT.items() if name != "subscription"}),
        ("heartbeat", {"subscription": "s1", "head": 0, "extra": 1}),
        ("nonsense", {"subscription": "s1"}),
    ],
)
def test_notifications_are_held_to_the_document_too(method: str, params: Any) -> None:
    with pytest.raises(NotAsDocumented):
        notified(method, params)
