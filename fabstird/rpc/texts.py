"""How much work a text may be, judged before it is parsed.

A megabyte of JSON can be half a million values, and each becomes an object. What is counted here are the characters
that begin or separate values, outside of strings, by scans that run at the speed of memory.
"""

from __future__ import annotations

import re

from fabstir_client.errors import ParseError, TooLarge

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_BEGINNINGS = b",[{"
_DEEPEST = 1000  # levels; the parser gives up at about as many
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_values(text: bytes, limit: int) -> None:
    """Raises `TooLarge` where the text has more than ``limit`` values, not counting the text itself as one; and
    `ParseError` where it has that many and is a nest which no parser would get to the bottom of."""
    if len(text) <= limit or _count(text) <= limit:
        return  # a value has two bytes at least; and what is in strings only makes it more
    text = _STRINGS.sub(b"", text)
    current = _count(text)
    if current > limit:
        if _too_deep(text):
            raise ParseError("Parse error: nested too deeply")
        raise TooLarge(
            f"a text of {current} values and more; [api] max_request_values allows {limit}",
            limit=limit,
            current=current,
            configKey="api.max_request_values",
        )


def _too_deep(text: bytes) -> bool:
    depth = 0
    for bracket in text.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:
            return True
    return False


def _count(text: bytes) -> int:
    return sum(text.count(one) for one in _BEGINNINGS)
