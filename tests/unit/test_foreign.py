"""JSON and texts of strangers."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.foreign import MAX_DEPTH, NotJson, decode_json, depth, encodable, without_halves, without_strings

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
)


@given(JSON)
def test_json_is_decoded(value: object) -> None:
    assert decode_json(msgspec.json.encode(value)) == value


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode()[:-1])))
def test_whatever_is_decoded_can_be_encoded_again(data: bytes) -> None:
    try:
        value = decode_json(data)
    except NotJson:
        return
    msgspec.json.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'"\\ud800"',
        b'"\\udc00x"',
        b'{"\\ud800":1}',
        b'"\xed\xa0\x80"',
        b"NaN",
        b"1e999",
        b"9" * 5000,
        b"[" * 990 + b"]" * 990,
        b'{"a":' * 990 + b"1" + b"}" * 990,
        b"[" * 1_000_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_cannot_be_handed_on_is_refused(data: bytes) -> None:
    with pytest.raises(NotJson):
        decode_json(data)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"[{":', b"}")])
def test_the_depth_is_that_of_brackets_outside_of_strings(opening: bytes, closing: bytes) -> None:
    for levels in (0, 1, MAX_DEPTH):
        text = opening * levels + b'"}]"' + closing * levels
        assert depth(without_strings(text)) == levels
        decode_json(text)
        decode_json(b"[" + b",".join([text[len(opening) : -len(closing)] if levels else text] * 3) + b"]")
    with pytest.raises(NotJson, match="deep"):
        decode_json(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))


@given(st.text(st.characters(categories=["Cs", "L"])))
def test_a_text_without_halves_of_surrogates_can_be_encoded(text: str) -> None:
    assert len(without_halves(text)) == len(text)
    msgspec.json.encode(encodable({text: [text, 1, None, {"a": text}]}))
