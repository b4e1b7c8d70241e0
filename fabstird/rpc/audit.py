"""The audit: a log line for each changing call, who made it and its outcome, and the latest of them here.

Refused calls are included. Nothing private is: numbers are shown, texts only for the parameters in `SHOWN`, and of
others only the length. A new parameter whose text may be shown is added there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fabstir_client.api.access import AuditEntry
from fabstir_client.api.errors import Forbidden
from fabstird.log.logger import get_logger

log = get_logger("audit")

KEPT = 1000  # entries
REFUSED_KEPT = 250  # entries of refused calls, which push out no others
REFUSED_RATE = 10  # refused calls noted and logged in a second; the others are only counted
TEXT = 200  # characters of one text
ITEMS = 16  # of one object or array, parameters included
NAME = 64  # characters of a parameter's name
SIZE = 2048  # bytes of an entry's parameters as JSON

SHOWN = {"access", "address", "addresses", "cidr", "config", "epoch", "ip", "key", "level", "methods", "name", "peerId"}
SHOWN |= {
    "framing",
    "logger",
    "mode",
    "peers",
    "protocol",
    "protocols",
    "reason",
    "streamId",
    "subscription",
    "tag",
    "target",
    "topic",
    "tunnelId",
    "type",
    "types",
}


class Audit:
    """The audit. ``clock`` returns seconds of the wall clock."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[AuditEntry] = deque(maxlen=KEPT)
        self._refused: deque[AuditEntry] = deque(maxlen=REFUSED_KEPT)
        self._second = 0  # the second of the wall clock in which refusals were last noted
        self._noted = 0
        self.left_out = 0  # refusals not noted, since the daemon started
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
        """Note one call.

        Args:
            method: The method.
            params: The parameters as received.
            outcome: ``ok``, or the error.
            duration: In seconds.
            transport: Of the caller, as the rest.
            id: The request's id.
            uid: The caller's user.
            pid: The caller's process.
            token: The name of the caller's token.
            remote: The caller's address.
        """
        refused = outcome == Forbidden.code
        if refused and not self._due():
            self.left_out += 1
            return
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
        (self._refused if refused else self._entries).append(entry)
        fields = {
            "request_id" if key == "id" else key: value for key, value in entry.to_dict().items() if key != "time"
        }
        log.info("call", **fields, **({"left_out": self.left_out} if refused and self.left_out else {}))

    def _due(self) -> bool:
        """Whether one more refusal is noted in this second."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._noted = second, 0
        self._noted += 1
        return self._noted <= REFUSED_RATE

    def read(self, after: int | None, limit: int) -> tuple[list[AuditEntry], int]:
        """The oldest ``limit`` entries after number ``after``, or the newest of all; and how many entries after it are
        gone."""
        kept = sorted((*self._entries, *self._refused), key=lambda entry: entry.seq)
        if after is None:
            return kept[-limit:], 0
        found = [entry for entry in kept if entry.seq > after]
        return found[:limit], self.head - after - len(found)


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
