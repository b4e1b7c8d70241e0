"""Entries of the event log as messages."""

from __future__ import annotations

from typing import Any

import msgspec

from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.streams import Notice
from fabstird.events import Entry, Gap


def known_types() -> tuple[str, ...]:
    """Every type of event."""
    return tuple(EVENT_DATA)


def notification(subscription: str, item: Entry | Gap) -> bytes:
    """The notification for one item. An entry's own part was serialised when it was published."""
    if isinstance(item, Gap):
        return _message("lagged", {"subscription": subscription, "missed": item.missed, "resume": item.resume})
    return b'{"jsonrpc":"2.0","method":"event","params":{"subscription":"%s",%s}}' % (subscription.encode(), item.body)


def notice_message(notice: Notice) -> bytes:
    """The notification for one caller."""
    return b'{"jsonrpc":"2.0","method":"%s","params":%s}' % (notice.METHOD.encode(), msgspec.json.encode(notice))


def heartbeat(subscription: str, head: int) -> bytes:
    return _message("heartbeat", {"subscription": subscription, "head": head})


def _message(method: str, params: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params})


def envelope(entry: Entry) -> Any:
    """One entry in the answer of ``events``, as JSON that is not serialised again."""
    return msgspec.Raw(b"{" + entry.body + b"}")


def position(item: Entry | Gap) -> int:
    """The position of a reader that has seen ``item``."""
    return item.resume - 1 if isinstance(item, Gap) else item.seq


def matches(item: Entry | Gap, types: frozenset[str] | None) -> bool:
    """Whether a reader of ``types`` (None for all) gets the item. Every reader gets gaps."""
    return isinstance(item, Gap) or types is None or item.type in types
