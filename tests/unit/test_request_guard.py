"""Whose answer the refusal of a text is: the id of a request that was not read."""

from __future__ import annotations

import pytest

from fabstird.rpc.request_guard import id_at_the_ends, readable_id


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (rb"7", 7),
        (rb"-7", -7),
        (rb'"a"', "a"),
        (rb'"a\"b"', 'a"b'),
        (rb'"a\\"', "a\\"),
        (rb'"\u00e9"', "é"),
        (rb"1.5", None),
        (rb"15e-1", None),
        (rb"[1]", None),
        (rb"null", None),
    ],
)
def test_the_id_is_read_whole_or_not_at_all(identity: bytes, expected: str | int | None) -> None:
    """A part of it could be the id of another call on the same connection."""
    first = b'{"jsonrpc": "2.0", "id": ' + identity + b', "method": "ping", "params": {"peerId": "'
    last = b'"}, "id": ' + identity + b" }\n"
    assert readable_id(first + b'"}}') == expected
    assert id_at_the_ends(first, b"") == expected
    assert id_at_the_ends(b"", last) == expected
    assert id_at_the_ends(b'{"method":"ping","id":' + identity + b"}", b"") == expected


def test_an_id_that_may_go_on_is_not_read() -> None:
    assert id_at_the_ends(b'{"id":12', b"") is None
    assert id_at_the_ends(b'{"id":"12', b"") is None
    assert id_at_the_ends(b'{"id":12345678901234567890123,', b"") is None
    assert id_at_the_ends(b'{"params":{"id":12},', b"") is None
