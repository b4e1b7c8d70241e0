"""How much work a text may be, judged before it is parsed.

A megabyte of JSON can be half a million values, and each becomes an object. What is counted here are the characters
that begin or separate values, outside of strings, by scans that run at the speed of memory.
"""

from __future__ import annotations

import re

from fabstir_client.errors import TooLarge

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_BEGINNINGS = b",[{"


def check_values(text: bytes, limit: int) -> None:
    """Raises `TooLarge` where the text has more than ``limit`` values, not counting the text itself as one."""
    if len(text) <= limit or _count(text) <= limit:
        return  # a value has two bytes at least; and what is in strings only makes it more
    current = _count(_STRINGS.sub(b"", text))
    if current > limit:
        raise TooLarge(
            f"a text of {current} values and more; [api] max_request_values allows {limit}",
            limit=limit,
            current=current,
            configKey="api.max_request_values",
        )


def _count(text: bytes) -> int:
    return sum(text.count(one) for one in _BEGINNINGS)
