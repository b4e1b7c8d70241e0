"""How much of the API's limits is in use: the transports keep the counts, and ``metrics().bounds`` shows them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from fabstir_client.api.errors import LimitExceeded
from fabstird.config import ApiConfig
from fabstird.rpc.arriving import Arriving, Room
from fabstird.rpc.memory import Memory, most_for
from fabstird.turn import Turn

# Calls of all connections that are answered in place in a turn of the loop. One that is begun as a task counts as 4,
# and so does each 4 KiB of an answer
TURN, BEGUN, OF_ANSWER = 256, 4, 1024


class Connection(Protocol):
    """A connection that carries calls and subscriptions."""

    @property
    def calls(self) -> int:
        """Calls in flight."""

    @property
    def subscriptions(self) -> int: ...

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""


class Reader(Protocol):
    """A caller with bytes that wait to be sent."""

    @property
    def waiting(self) -> int:
        """These bytes."""

    def give_up(self, key: str, limit: float) -> None:
        """Close the connection: the caller does not read, and ``key`` allows no more."""


class Unsent:
    """The bytes that wait to be sent to all callers. When there are more than ``most``, the caller is closed that has
    not caught up for longest: one that reads a large answer catches up before long."""

    def __init__(self, most: float = math.inf) -> None:
        self.size = 0
        self.most = most
        self._behind: dict[Reader, None] = {}  # caught up longest ago first

    def add(self, reader: Reader, size: int) -> None:
        """``size`` more bytes wait, after the reader's own count."""
        self._behind.setdefault(reader, None)
        self.size += size
        while self.size > self.most:
            least = self.size / len(self._behind) / 2  # closing a caller with next to nothing would not help
            next(one for one in self._behind if one.waiting >= least).give_up("api.max_send_queue_bytes", self.most)

    def sent(self, reader: Reader, size: int) -> None:
        """``size`` fewer bytes wait, after the reader's own count."""
        self.size -= size
        if not reader.waiting:
            self._behind.pop(reader, None)


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    """A connection that carries one call."""

    calls: int = 1
    subscriptions: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Usage:
    """Connections by endpoint, and those that carry calls and subscriptions, which share ``turn``. ``memory`` is held
    by calls in flight; ``unsent`` is what their callers have not read."""

    ipc: int = 0
    http: int = 0
    connections: set[Connection] = field(default_factory=set)
    turn: Turn = field(default_factory=lambda: Turn(TURN))
    memory: Memory = field(default_factory=Memory)
    unsent: Unsent = field(default_factory=Unsent)
    arriving: Room | None = None  # for long texts that are arriving

    def fit(self, api: ApiConfig) -> None:
        """Set the bounds for all callers together that follow from those of one."""
        self.memory.most = most_for(api.max_answer_bytes, api.max_request_bytes)
        self.unsent.most = api.max_send_queue_bytes
        if self.arriving is None:  # a reload leaves `max_request_bytes` as it is
            self.arriving = Room(api.max_request_bytes)

    def arrival(self, caller: Hashable) -> Arriving:
        """For one connection, after `fit`."""
        assert self.arriving is not None
        return Arriving(self.arriving, caller)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """While one call, or a batch, is under way on a connection that carries nothing else."""
        under_way = _UnderWay()
        self.connections.add(under_way)
        try:
            yield
        finally:
            self.connections.discard(under_way)

    def calls(self) -> int:
        """The most on one connection, which is what the limit is for."""
        return max((one.calls for one in self.connections), default=0)

    def subscriptions(self) -> int:
        """The most on one connection."""
        return max((one.subscriptions for one in self.connections), default=0)

    def waiting(self) -> int:
        """In bytes, the most on one connection."""
        return max((one.waiting for one in self.connections), default=0)


def over(what: str, limit: int, key: str, *, current: int | None = None) -> LimitExceeded:
    """The error for exceeding ``limit``. ``what`` is in words, such as "connections to the IPC socket"."""
    return LimitExceeded(
        f"there are {limit if current is None else current} {what}, as many as [api] {key} allows",
        limit=limit,
        current=limit if current is None else current,
        configKey=f"api.{key}",
    )
