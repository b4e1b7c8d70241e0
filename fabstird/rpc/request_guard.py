"""Bounds the work that a text may cause, before it is parsed.

A megabyte of JSON can hold half a million values, each of which becomes an object. This module counts the characters
outside strings that begin or separate values, with scans that run at memory speed.
"""

from __future__ import annotations

import re

import msgspec

from fabstir_client.api.errors import ParseError, TooLarge
from fabstird.foreign import depth, without_strings


class _Named(msgspec.Struct):
    id: str | int


_named = msgspec.json.Decoder(_Named).decode
_ID = rb'"id"\s*:\s*(-?\d{1,19}|"(?:[^"\\]|\\.){0,256}")\s*'
_FIRST = re.compile(
    rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*|"method"\s*:\s*"[^"\\]{0,256}"\s*,\s*)*' + _ID + rb"[,}]"
)
_LAST = re.compile(rb",\s*" + _ID + rb"\}\s*$")
ENDS = 1024  # bytes at either end of a text that are searched for its id
_BEGINNINGS = b",[{"
_DEEPEST = 1000  # levels; the parser gives up at about as many


def check_values(text: bytes, limit: int) -> None:
    """Raise `TooLarge` where the text has more than ``limit`` values, not counting the text itself; `ParseError` where
    it has that many and is nested too deeply for any parser."""
    if len(text) <= limit or _count(text) <= limit:
        return  # a value has at least two bytes; what is in strings only makes the count larger
    text = without_strings(text)
    current = _count(text)
    if current > limit:
        if depth(text) > _DEEPEST:
            raise ParseError("Parse error: nested too deeply")
        raise TooLarge(
            f"a text of {current} values and more; [api] max_request_values allows {limit}",
            limit=limit,
            current=current,
            configKey="api.max_request_values",
        )


def _count(text: bytes) -> int:
    return sum(text.count(one) for one in _BEGINNINGS)


def readable_id(text: bytes) -> str | int | None:
    """The id of a request that is refused, so that its caller does not wait for ever; None where there is none. A text
    without an id takes no memory."""
    try:
        return _named(text).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def id_at_the_ends(first: bytes, last: bytes) -> str | int | None:
    """As `readable_id`, for a text of which only the ends are available: the id is before the parameters, as usual, or
    after everything else. ``last`` is empty where the end of the text has not arrived."""
    found = _FIRST.match(first) or _LAST.search(last)
    if found is None:
        return None
    return readable_id(b'{"id":' + found[1] + b"}")
