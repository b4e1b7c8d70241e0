"""The Fabstir scheme: what is read of metadata, who passes, who comes first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.fabstir.scheme import Candidate, Filters, Malformed, Metadata, passing, price, provider_keys, read

A, B, C, D = "12D3KooWA", "12D3KooWB", "12D3KooWC", "12D3KooWD"
WEI = 10**30  # more than any float, or 64 bits, hold exactly


def told(value: Any) -> Metadata:
    return read(json.dumps(value).encode(), A, "llama")


def node(peer_id: str, *, cost: int | None = None, score: float | None = None, ms: float | None = None) -> Candidate:
    return Candidate(peer_id, (), Metadata({}, (), cost, score), True, ms)


def order(*candidates: Candidate, **filters: Any) -> list[str]:
    return [one.peer_id for one in passing(candidates, Filters(**filters))]


def test_the_keys_are_those_of_the_node_and_of_the_sdk() -> None:
    assert provider_keys("llama") == {"fabstir": b"capability:llama", "sdk": b"llm-inference/llama"}


def test_metadata_of_both_shapes_is_understood() -> None:
    flat = told(
        {"models": ["llama", "mistral"], "pricePerToken": "1000000000000000000000", "reputation": 90, "more": 1}
    )
    assert (flat.models, flat.price, flat.reputation) == (("llama", "mistral"), 10**21, 90.0)
    assert flat.whole["more"] == 1
    nested = told({"peerId": A, "capabilities": {"models": ["llama"], "pricePerToken": WEI + 1}})
    assert (nested.models, nested.price, nested.reputation) == (("llama",), WEI + 1, None)
    assert told({"capabilities": ["llama"]}).models == ("llama",)
    assert told({}) == Metadata({}, (), None, None)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "not a JSON object"),
        ({"peerId": B}, "another peer's"),
        ({"models": "llama"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": ["x"] * 300}, "models"),
        ({"models": ["other"]}, "does not name it"),
        ({"pricePerToken": "-1"}, "pricePerToken"),
        ({"pricePerToken": "1.5"}, "pricePerToken"),
        ({"pricePerToken": 1.5}, "pricePerToken"),
        ({"pricePerToken": True}, "pricePerToken"),
        ({"pricePerToken": "9" * 79}, "pricePerToken"),
        ({"pricePerToken": 10**78}, "pricePerToken"),
        ({"pricePerToken": "\u0661"}, "pricePerToken"),
        ({"reputation": "high"}, "reputation"),
        ({"reputation": 101}, "reputation"),
        ({"reputation": True}, "reputation"),
    ],
)
def test_malformed_metadata_says_what_is_wrong(value: Any, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        told(value)


@pytest.mark.parametrize(
    "value", [b"", b"{", b"\xff", b'{"reputation":NaN}', b"[" * 100000, b'{"pricePerToken":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_malformed(value: bytes) -> None:
    with pytest.raises(Malformed, match=r"not JSON|nested"):
        read(value, A, "llama")


names = st.sampled_from(["models", "capabilities", "pricePerToken", "reputation", "peerId"]) | st.text(max_size=5)
plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
tree = st.recursive(plain, lambda x: st.lists(x, max_size=3) | st.dictionaries(names, x, max_size=4), max_leaves=8)


@given(st.binary(max_size=200) | tree.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_metadata_or_malformed(value: bytes) -> None:
    try:
        metadata = read(value, A, "llama")
    except Malformed:
        return
    assert isinstance(metadata.whole, dict)


def test_preferred_come_first_then_reputation_latency_and_price() -> None:
    best, quick, cheap, dear = (
        node(A, score=90, ms=50, cost=9),
        node(B, score=80, ms=5, cost=9),
        node(C, score=80, ms=50, cost=WEI),
        node(D, score=80, ms=50, cost=WEI + 1),
    )
    assert order(dear, cheap, quick, best) == [A, B, C, D]
    assert order(dear, cheap, quick, best, preferred=(D, C)) == [D, C, A, B]
    unknown = Candidate("12D3KooWE", (), None, False, None)
    assert order(unknown, dear, best)[-1] == unknown.peer_id, "what is not known comes last"
    assert order(node(A), node(B, cost=5)) == [B, A]


def test_filters_leave_out_what_fails_them_and_what_is_not_known() -> None:
    nodes = (node(A, cost=WEI, score=50, ms=10), node(B, cost=WEI + 1, score=49, ms=11), node(C))
    assert order(*nodes, max_price=WEI) == [A]
    assert order(*nodes, max_latency=10) == [A]
    assert order(*nodes, min_reputation=50) == [A]
    assert order(*nodes, excluded=frozenset({A})) == [B, C]
    assert order(*nodes) == [A, B, C]


def test_prices_are_integers_of_any_size() -> None:
    assert price(str(2**256 - 1)) == 2**256 - 1
    for wrong in ("", "-1", "1e3", "0x10", " 1", "9" * 79, "\u0661"):
        with pytest.raises(ValueError, match="decimal digits"):
            price(wrong)
