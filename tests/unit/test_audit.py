"""What the audit keeps of a call, and what it never shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.rpc.audit import ITEMS, KEPT, SIZE, TEXT, Audit


def noted(params: dict[str, Any], **more: Any) -> dict[str, Any]:
    audit = Audit(clock=lambda: 1234.5)
    audit.add("some.method", params, "ok", 0.0123456, **{"transport": "ipc", **more})
    (entry,), _ = audit.read(None, 1)
    return entry.to_dict()


def test_who_what_and_the_outcome() -> None:
    assert noted({"peerId": "12D3", "value": 7}, id='"a"', uid=1000, pid=4711) == {
        "seq": 1,
        "time": 1234500,
        "method": "some.method",
        "params": {"peerId": "12D3", "value": 7},
        "outcome": "ok",
        "duration": 12.346,
        "transport": "ipc",
        "id": '"a"',
        "uid": 1000,
        "pid": 4711,
    }
    over_http = noted({}, transport="http", token="ci", remote="127.0.0.1:4")
    assert (over_http["token"], over_http["remote"]) == ("ci", "127.0.0.1:4")


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ({"data": "c2VjcmV0"}, {"data": "<8 characters>"}),
        ({"token": "secret"}, {"token": "<6 characters>"}),
        ({"payload": {"secret": "secret"}}, {"payload": "<1 items>"}),
        ({"lines": ["secret", "secret"]}, {"lines": "<2 items>"}),
        ({"data": b"secret"}, {"data": "<6 bytes>"}),
        ({"count": 1, "share": 0.5, "on": True, "none": None}, {"count": 1, "share": 0.5, "on": True, "none": None}),
        ({"count": 10**400}, {"count": "a number of 401 digits"}),
        ({"address": "x" * 1000}, {"address": "x" * TEXT + "…"}),
        ({"methods": ["a"] * 100}, {"methods": ["a"] * ITEMS + ["… 84 more"]}),
        ({"config": {"retryDelay": 1, "a": {"b": {"c": 1}}}}, {"config": {"retryDelay": 1, "a": {"b": "…"}}}),
        ({"n" * 1000: 1}, {"n" * 64 + "…": 1}),
        ({"address": ["x" * TEXT] * 16}, {"…": "1 parameters, too long to be shown"}),
    ],
)
def test_texts_are_shown_where_they_may_be_and_cut(given_: dict[str, Any], shown: dict[str, Any]) -> None:
    assert noted(given_)["params"] == shown


# Long by repetition: the bounds are met in most examples, and few draws make one.
long_text = st.builds(str.__mul__, st.text(min_size=1, max_size=4), st.sampled_from([1, TEXT, 4 * TEXT]))
names = long_text | st.sampled_from(["config", "address", "methods"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | long_text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | inner.map(lambda one: [one] * (2 * ITEMS))
        | st.dictionaries(names, inner, max_size=4)
        | inner.map(lambda one: {f"{number}": one for number in range(2 * ITEMS)})
    ),
    max_leaves=12,
)


@given(st.dictionaries(names, json_values, max_size=2 * ITEMS))
def test_whatever_comes_is_kept_short(params: dict[str, Any]) -> None:
    shown = noted(params)["params"]
    assert len(json.dumps(shown, ensure_ascii=False).encode()) <= SIZE + 2 * ITEMS**3  # its spaces


def test_the_last_thousand_are_kept_and_who_comes_late_is_told() -> None:
    audit = Audit()
    for number in range(KEPT + 10):
        audit.add("m", {"value": number}, "ok", 0, transport="ipc")
    assert (audit.head, len(audit)) == (KEPT + 10, KEPT)
    newest, missed = audit.read(None, 3)
    assert ([entry.seq for entry in newest], missed) == ([KEPT + 8, KEPT + 9, KEPT + 10], 0)
    oldest, missed = audit.read(0, 2)
    assert ([entry.seq for entry in oldest], missed) == ([11, 12], 10)
    following, missed = audit.read(500, 1000)
    assert ([entry.seq for entry in following], missed) == (list(range(501, KEPT + 11)), 0)
    assert audit.read(audit.head, 10) == ([], 0)


def test_refusals_push_out_nothing_else_and_are_throttled() -> None:
    now = [1000.0]
    audit = Audit(clock=lambda: now[0])
    audit.add("peer.ban", {"target": "192.0.2.1"}, "ok", 0.001, transport="ipc")
    for _ in range(1100):
        audit.add("peer.ban", {}, "FORBIDDEN", 0.001, transport="http")
        now[0] += 0.5
    entries, missed = audit.read(None, 1000)
    assert (entries[0].method, entries[0].outcome) == ("peer.ban", "ok")
    assert len(entries) == 1 + 250
    assert [one.seq for one in entries] == sorted(one.seq for one in entries)
    assert audit.read(0, 1000)[1] == 1101 - 251
    for _ in range(1000):
        audit.add("peer.ban", {}, "FORBIDDEN", 0.001, transport="http")
    assert audit.head <= 1101 + 10
    assert audit.left_out >= 990
    assert missed == 0
