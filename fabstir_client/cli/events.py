"""``fabstir events`` and ``fabstir wait``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import NOT_DECODED, decoded
from fabstir_client._sync.calling import call_once
from fabstir_client._sync.concurrency import remaining
from fabstir_client._sync.events import EventStream
from fabstir_client.api.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.api.types import Event, Lagged, SubscribeResult
from fabstir_client.cli.format import counted, event_line, lagged_line, readable
from fabstir_client.cli.observe import coloured
from fabstir_client.cli.progress import progress
from fabstir_client.cli.reader import end_without

Complain = Callable[[str, int], int]

DONE, TIMED_OUT = 0, 4
LAST = 5.0  # seconds for the status that is printed once a condition holds
FIRST_DELAY, LAST_DELAY = 0.02, 0.5  # seconds between attempts to reach a daemon that is not running yet


class _Held(msgspec.Struct):
    head: int
    missed: int | None
    events: list[msgspec.Raw]


class _Seq(msgspec.Struct):
    seq: int


def held(target: Target, args: argparse.Namespace, _: Complain) -> int:
    """Print the events that the daemon's log holds, after ``--after`` if given."""
    types, as_json, colour = args.types, args.json, coloured(args.color)
    after, head = args.after, None
    while head is None or (after or 0) < head:
        params = {"types": types, "after": after, "timeout": 0}
        given = {key: value for key, value in params.items() if value is not None}
        page = _page(call_once(target, raw_method("events", given), args.deadline))
        head = page.head if head is None else head
        if page.missed and after is not None:
            resume = _seq(page.events[0]) if page.events else page.head + 1
            _print_lagged(Lagged(page.missed, resume), as_json=as_json)
        if not page.events:
            break
        for event in page.events:
            _write(bytes(event) if as_json else _line(decoded("events", event), colour))
        after = _seq(page.events[-1])
    return DONE


def follow(target: Target, args: argparse.Namespace, complain: Complain) -> int:
    """Print events as they happen, until interrupted, until nobody reads the output, or until ``--timeout``."""
    as_json, colour = args.json, coloured(args.color)
    hook = None
    if args.hook:
        from fabstir_client.cli.hook import Hook

        hook = Hook(args.hook, args.exec_timeout / 1000, lambda words: complain(words, DONE))
    else:
        end_without(DONE)

    def show(item: Event | Lagged) -> None:
        if hook is not None:
            hook.run({"type": "lagged", **item.to_dict()} if isinstance(item, Lagged) else item.to_dict())
            return
        if isinstance(item, Lagged):
            _print_lagged(item, as_json=as_json)
        else:
            _write(msgspec.json.encode(item) if as_json else _line(item.to_dict(), colour))
        sys.stdout.buffer.flush()

    def lost(error: FabstirError) -> None:
        complain(f"{error}; waiting for it to come back", DONE)

    following = contextlib.closing(EventStream(target, args.types, args.after, typed=False, on_lost=lost))
    with hook.armed() if hook else contextlib.nullcontext(), following as stream:
        stream.open(None if args.deadline is None else remaining(args.deadline))
        for item in stream if args.deadline is None else _within(stream, args.deadline):
            show(item)
    return DONE


def _within(stream: EventStream, deadline: float) -> Iterator[Event | Lagged]:
    while True:
        try:
            yield stream.get(remaining(deadline))
        except ClientTimeout:
            return


def _line(event: dict[str, Any], colour: bool) -> bytes:
    return readable(lambda event: event_line(event, colour=colour), event).encode(errors="replace")


def _page(raw: msgspec.Raw) -> _Held:
    try:
        return msgspec.json.decode(raw, type=_Held)
    except NOT_DECODED as error:
        raise BadAnswer(f"the daemon's answer to events is malformed: {error}") from error


def _seq(event: msgspec.Raw) -> int:
    try:
        return msgspec.json.decode(event, type=_Seq).seq
    except NOT_DECODED as error:
        raise BadAnswer(f"the daemon's answer to events is malformed: {error}") from error


def _print_lagged(lagged: Lagged, *, as_json: bool) -> None:
    _write(
        msgspec.json.encode({"type": "lagged", **lagged.to_dict()}) if as_json else lagged_line(lagged.missed).encode()
    )


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")


class _Node:
    """The node's state and peers, from the newest subscription and the events since; and whether a condition holds."""

    def __init__(self, condition: str) -> None:
        self._name, _, self._value = condition.partition("=")
        self._state = "unknown"
        self._peers: set[str] = set()
        self._head = 0

    def reset(self, result: SubscribeResult) -> None:
        """Start from a subscription's snapshot."""
        self._state = result.status.state
        self._peers = {peer.peer_id for peer in result.peers}
        self._head = result.head

    def apply(self, event: Event) -> None:
        if event.seq <= self._head:
            return  # the snapshot includes it
        if event.type in ("p2p:started", "p2p:stopped"):
            self._state = event.type.removeprefix("p2p:")
        elif event.type == "peer:connect":
            self._peers.add(event.data["peerId"])
        elif event.type == "peer:disconnect":
            self._peers.discard(event.data["peerId"])

    def holds(self) -> bool:
        if self._name == "ready":
            return True
        if self._name == "peers":
            wanted = int(self._value)
            return len(self._peers) >= wanted if wanted else not self._peers
        return self._value in self._peers if self._name == "peer" else self._state == self._name

    def __str__(self) -> str:
        return f"the node is {self._state}, with {counted(len(self._peers), 'peer')}"


def wait(target: Target, condition: str, timeout: float, *, as_json: bool, complain: Callable[[str, int], int]) -> int:
    """Wait until ``condition`` holds. This also waits for a daemon that is not running, or stops meanwhile."""
    end_without(TIMED_OUT)
    current = _Current()
    with progress(lambda: f"waiting for {condition}: {current}"):
        holds = _wait(target, condition, time.monotonic() + timeout, current)
    if not holds:
        return complain(f"{condition} did not hold within {timeout:g} s; at the end: {current}", TIMED_OUT)
    if as_json:
        _write(bytes(call_once(target, raw_method("status", None), time.monotonic() + LAST)))
    else:
        _write(f"{condition}: yes".encode())
    return DONE


class _Current:
    """What is known now, in words."""

    def __init__(self) -> None:
        self.words: object = "no daemon was reached"

    def __str__(self) -> str:
        return str(self.words)


def _wait(target: Target, condition: str, deadline: float, current: _Current) -> bool:
    delay = FIRST_DELAY
    while True:
        node = current.words = _Node(condition)
        try:
            if _holds(target, node, deadline):
                return True
        except (DaemonUnreachable, ConnectionLost, BadAnswer) as error:
            current.words = error
        except ClientTimeout:
            pass  # `current` still says what is known of the node
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(delay, remaining(deadline)))
        delay = min(delay * 2, LAST_DELAY)


def _holds(target: Target, node: _Node, deadline: float) -> bool:
    """Follow the events until the condition holds. Returns False if some were missed, and the caller must start again.

    Raises `ClientTimeout` when the deadline has passed.
    """
    with contextlib.closing(
        EventStream(target, typed=False, on_subscribed=node.reset, on_lost=lambda _: None)
    ) as stream:
        stream.open(remaining(deadline))
        while not node.holds():
            item: Any = stream.get(remaining(deadline))
            if isinstance(item, Lagged):
                return False
            node.apply(item)
    return True
