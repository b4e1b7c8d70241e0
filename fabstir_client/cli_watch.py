"""``fabstir events`` and ``fabstir wait``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fabstir_client.calls import raw_method
from fabstir_client.cli_progress import progress
from fabstir_client.cli_tables import counted, event_line, lagged_line
from fabstir_client.discovery import Target
from fabstir_client.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.sync_link import call_once
from fabstir_client.sync_stream import EventStream
from fabstir_client.types import Event, Lagged, SubscribeResult

DONE, TIMED_OUT = 0, 4
FIRST_DELAY, LAST_DELAY = 0.02, 0.5  # seconds between attempts to reach a daemon that is not there yet


class _Held(msgspec.Struct):
    head: int
    missed: int | None
    events: list[msgspec.Raw]


class _Seq(msgspec.Struct):
    seq: int


def held(target: Target, kinds: list[str] | None, after: int | None, *, as_json: bool, colour: bool = False) -> int:
    """Print what the daemon's log holds, from ``after`` on."""
    asked, head = after, None
    while head is None or (asked or 0) < head:
        params = {"types": kinds, "after": asked, "timeout": 0}
        raw = call_once(
            target, raw_method("events", {key: value for key, value in params.items() if value is not None})
        )
        page = msgspec.json.decode(raw, type=_Held)
        head = page.head if head is None else head
        if page.missed and asked is not None:
            last = _seq(page.events[0]) if page.events else page.head + 1
            _print_lagged(Lagged(page.missed, last), as_json=as_json)
        if not page.events:
            break
        for event in page.events:
            line = event_line(msgspec.json.decode(event), colour=colour)
            _write(bytes(event) if as_json else line.encode(errors="replace"))
        asked = _seq(page.events[-1])
    return DONE


def follow(
    target: Target,
    kinds: list[str] | None,
    after: int | None,
    *,
    as_json: bool,
    complain: Callable[[str, int], int],
    colour: bool = False,
) -> int:
    """Print events as they come, until interrupted."""

    def lost(error: FabstirError) -> None:
        complain(f"{error}; waiting for it to come back", DONE)

    with EventStream(target, kinds, after, typed=False, on_lost=lost) as stream:
        for item in stream:
            if isinstance(item, Lagged):
                _print_lagged(item, as_json=as_json)
            elif as_json:
                _write(msgspec.json.encode(item))
            else:
                _write(event_line(item.to_dict(), colour=colour).encode(errors="replace"))
            sys.stdout.buffer.flush()
    return DONE


def _seq(event: msgspec.Raw) -> int:
    return msgspec.json.decode(event, type=_Seq).seq


def _print_lagged(lagged: Lagged, *, as_json: bool) -> None:
    _write(
        msgspec.json.encode({"type": "lagged", **lagged.to_dict()}) if as_json else lagged_line(lagged.missed).encode()
    )


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")


class _Node:
    """What a condition is about, as the newest subscription and the events since told it."""

    def __init__(self, condition: str) -> None:
        self._name, _, self._value = condition.partition("=")
        self._state = "unknown"
        self._peers: set[str] = set()
        self._head = 0

    def learn(self, result: SubscribeResult) -> None:
        self._state = result.status.state
        self._peers = {peer.peer_id for peer in result.peers}
        self._head = result.head

    def take(self, event: Event) -> None:
        if event.seq <= self._head:
            return  # the subscription knew already
        if event.type in ("p2p:started", "p2p:stopped"):
            self._state = event.type.removeprefix("p2p:")
        elif event.type == "peer:connect":
            self._peers.add(event.data["peerId"])
        elif event.type == "peer:disconnect":
            self._peers.discard(event.data["peerId"])

    def fulfilled(self) -> bool:
        if self._name == "ready":
            return True
        if self._name == "peers":
            wanted = int(self._value)
            return len(self._peers) >= wanted if wanted else not self._peers
        return self._value in self._peers if self._name == "peer" else self._state == self._name

    def __str__(self) -> str:
        return f"the node is {self._state}, with {counted(len(self._peers), 'peer')}"


def wait(target: Target, condition: str, timeout: float, *, as_json: bool, complain: Callable[[str, int], int]) -> int:
    """Wait until ``condition`` holds; a daemon that is not there, or goes away, is waited for too."""
    standing = _Standing()
    with progress(lambda: f"waiting for {condition}: {standing}"):
        came_true = _wait(target, condition, time.monotonic() + timeout, standing)
    if not came_true:
        return complain(f"{condition} did not come true within {timeout:g} s; at the end: {standing}", TIMED_OUT)
    if as_json:
        _write(bytes(call_once(target, raw_method("status", None))))
    else:
        _write(f"{condition}: yes".encode())
    return DONE


class _Standing:
    """How far it is, in words."""

    def __init__(self) -> None:
        self.words: object = "no daemon was reached"

    def __str__(self) -> str:
        return str(self.words)


def _wait(target: Target, condition: str, deadline: float, standing: _Standing) -> bool:
    delay = FIRST_DELAY
    while True:
        node = standing.words = _Node(condition)
        try:
            if _holds(target, node, deadline):
                return True
        except (DaemonUnreachable, ConnectionLost, BadAnswer) as error:
            standing.words = error
        except ClientTimeout:
            pass  # what is known of the node is told
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(delay, left))
        delay = min(delay * 2, LAST_DELAY)


def _holds(target: Target, node: _Node, deadline: float) -> bool:
    """Follow the events until the condition holds; False where some were missed and it is best to begin anew.

    Raises `ClientTimeout` when the deadline has passed.
    """
    with EventStream(target, typed=False, on_subscribed=node.learn) as stream:
        while not node.fulfilled():
            item: Any = stream.get(deadline - time.monotonic())
            if isinstance(item, Lagged):
                return False
            node.take(item)
    return True
