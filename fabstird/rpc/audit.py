"""What was changed, by whom, and with what outcome: a line in the log for each such call, and the last of them here.

Refused calls are in it too. Nothing private is: numbers are shown, texts only under the names of `SHOWN`, of all others
the length. Whoever adds a parameter whose text may be shown adds its name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fabstir_client.types_access import AuditEntry
from fabstird.log import get_logger

log = get_logger("audit")

KEPT = 1000  # entries
TEXT = 200  # characters of one text
ITEMS = 16  # of one object or array, parameters included
NAME = 64  # characters of a parameter's name
SIZE = 2048  # bytes of an entry's parameters as JSON

SHOWN = {"access", "address", "addresses", "cidr", "config", "epoch", "ip", "key", "level", "methods", "name", "peerId"}
SHOWN |= {
    "framing",
    "logger",
    "protocol",
    "protocols",
    "reason",
    "subscription",
    "tag",
    "target",
    "topic",
    "type",
    "types",
}


class Audit:
    """``clock`` gives seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[AuditEntry] = deque(maxlen=KEPT)
        self.head = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self,
        method: str,
        params: Mapping[str, Any],
        outcome: str,
        duration: float,
        *,
        transport: str,
        id: str | None = None,
        uid: int | None = None,
        pid: int | None = None,
        token: str | None = None,
        remote: str | None = None,
    ) -> None:
        """Note one call; ``params`` as they came, ``duration`` in seconds."""
        self.head += 1
        entry = AuditEntry(
            seq=self.head,
            time=int(self._clock() * 1000),
            method=method,
            params=_public(params),
            outcome=outcome,
            duration=round(duration * 1000, 3),
            transport=transport,
            id=id if id is None or len(id) <= TEXT else f"{id[:TEXT]}…",
            uid=uid,
            pid=pid,
            token=token,
            remote=remote,
        )
        self._entries.append(entry)
        told = {"request_id" if key == "id" else key: value for key, value in entry.to_dict().items() if key != "time"}
        log.info("call", **told)

    def read(self, after: int | None, limit: int) -> tuple[list[AuditEntry], int]:
        """The oldest ``limit`` entries after number ``after``, or the newest of all; and how many after it are gone."""
        if after is None:
            return list(self._entries)[-limit:], 0
        oldest = self.head - len(self._entries) + 1
        found = [entry for entry in self._entries if entry.seq > after]
        return found[:limit], max(0, oldest - after - 1)


def _public(params: Mapping[str, Any]) -> dict[str, Any]:
    shown = _bounded(
        (name[:NAME] + ("…" if len(name) > NAME else ""), _shown(value, name in SHOWN))
        for name, value in params.items()
    )
    size = len(msgspec.json.encode(shown))
    return shown if size <= SIZE else {"…": f"{len(params)} parameters, too long to be shown"}


def _shown(value: Any, public: bool, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value if abs(value or 0) < 2**53 else f"a number of {len(str(value))} digits"
    if isinstance(value, str | bytes):
        if isinstance(value, bytes) or not public:
            return f"<{len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}>"
        return value if len(value) <= TEXT else f"{value[:TEXT]}…"
    if not isinstance(value, Mapping | list | tuple) or depth == 2:
        return "…"
    if not public:
        return f"<{len(value)} items>"
    if isinstance(value, Mapping):
        return _bounded((str(key)[:NAME], _shown(one, public, depth + 1)) for key, one in value.items())
    cut = [_shown(one, public, depth + 1) for one in value[:ITEMS]]
    return cut if len(value) <= ITEMS else [*cut, f"… {len(value) - ITEMS} more"]


def _bounded(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if len(found) == ITEMS:
            found["…"] = "more"
            break
        found[name] = value
    return found
