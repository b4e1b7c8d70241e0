"""Runs the calls of batches so that many batches neither block the loop nor fill the memory.

At any time only one batch begins calls, for `SLICE` seconds in each turn of the loop. A batch begins, and is answered,
once its connection has sent its earlier answers. When the batches of one connection hold half as many bytes of answers
as one answer may have, only the oldest goes on, and the others once it is answered.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from fabstir_client.api.errors import TooLarge
from fabstird.rpc.calls import Call, Recorded, encoded

CONCURRENCY = 16  # waiting calls of one batch
SLICE = 0.002  # seconds of beginning calls before other tasks get a turn
UNSENT = 1024 * 1024  # unsent bytes that a connection may have when a batch begins


@dataclass(slots=True, eq=False)
class _Share:
    """What the batches of one connection share."""

    used: int = 0  # bytes of answers
    batches: dict[Batch, None] = field(default_factory=dict)  # oldest first
    less: trio.Event = field(default_factory=trio.Event)  # a batch has been answered

    def leave(self, batch: Batch) -> None:
        del self.batches[batch]
        self.used -= batch.used
        self.less.set()
        self.less = trio.Event()


class Batches:
    """The batches of one dispatcher. ``run`` carries out a call, ``run_plain`` one whose handler is a plain
    function."""

    def __init__(
        self, run: Callable[[Recorded, Call], Awaitable[None]], run_plain: Callable[[Recorded, Call], None]
    ) -> None:
        self.run = run
        self.run_plain = run_plain
        self.turn = trio.Semaphore(1)  # not a lock, since the tasks of a batch pass it to each other
        self._shares: dict[object, _Share] = {}

    @asynccontextmanager
    async def begun(self, call: Call) -> AsyncIterator[Batch]:
        """A batch that has its turn. The bytes of its answers count until the context is left."""
        batch = Batch(self, call)
        try:
            await batch.take_turn(sent=True)
            with self._shared(call.sender or batch, batch):
                yield batch
        finally:
            batch.end_turn()

    @contextmanager
    def _shared(self, key: object, batch: Batch) -> Iterator[None]:
        share = batch.share = self._shares.setdefault(key, _Share())
        share.batches[batch] = None
        try:
            yield
        finally:
            share.leave(batch)
            if not share.batches:
                del self._shares[key]


class Batch:
    """One batch; made by `Batches.begun`. ``used`` is the size of its answers so far. Answers beyond the largest size
    are dropped at once, and calls that have not begun by then are not carried out."""

    def __init__(self, batches: Batches, call: Call) -> None:
        self.used = 0
        self.share: _Share  # set in its first turn
        self._batches = batches
        self._call = call
        self._limit = call.services.config.api.max_answer_bytes
        self._has_turn = False
        self._began = 0.0  # when it began calls in this turn of the loop
        self._slots = trio.Semaphore(CONCURRENCY)  # for calls that have begun and wait

    async def take_turn(self, *, sent: bool = False) -> None:
        """Return with the turn; with ``sent``, once its connection has sent what it had to."""
        sender = self._call.sender
        while not self._has_turn:
            await self._batches.turn.acquire()
            if sent and sender is not None and sender.waiting > UNSENT:
                self._batches.turn.release()
                await sender.flush()
            else:
                self._has_turn = True

    def end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._batches.turn.release()

    async def run(self, recorded: list[Recorded]) -> None:
        """Carry out calls, begun in order. The batch has its turn before and after."""
        left = iter(recorded)
        if any(item.waits for item in recorded):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._work, left, nursery)
        else:
            await self._work(left, None)
        await self.take_turn(sent=True)

    async def _work(self, left: Iterator[Recorded], nursery: trio.Nursery | None) -> None:
        """Carry out calls one after another. ``nursery`` is given if any of them waits."""
        self._began = time.perf_counter()
        for item in left:
            if item.waits:
                await self._slot()
            await self._room()
            if self._refuses(item):
                if item.waits:
                    self._slots.release()
            elif item.waits:
                assert nursery is not None
                nursery.start_soon(self._work, left, nursery)  # continues with the next call once this one has begun
                await self._batches.run(item, self._call)
                self._slots.release()
                self._note(item)
                return
            else:
                self._batches.run_plain(item, self._call)
                self._note(item)
            if time.perf_counter() - self._began > SLICE:
                await trio.lowlevel.checkpoint()
                self._began = time.perf_counter()
        if self._slots.value < CONCURRENCY:
            self.end_turn()

    async def _slot(self) -> None:
        """Return when one more call may wait; this may give up the turn."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            self.end_turn()
            await self._slots.acquire()

    async def _room(self) -> None:
        """Return with the turn once the connection's batches have room for one more answer."""
        share = self.share
        while share.used > self._limit // 2 and self is not next(iter(share.batches)):
            self.end_turn()
            await share.less.wait()
        await self.take_turn()

    def _refuses(self, item: Recorded) -> bool:
        if self.used <= self._limit:
            return False
        words = "the call was not carried out: the answers before it have more bytes than [api] max_answer_bytes allows"
        self._fail(item, words)
        return True

    def _note(self, item: Recorded) -> None:
        result = item.outcome.get("result")
        if isinstance(result, msgspec.Raw):
            self.used += len(result)
            self.share.used += len(result)
            if self._call.held is not None:
                self._call.held.grow(len(result))
            if self.used > self._limit:
                words = f"the call was carried out, but with its answer the batch's would have {self.used} bytes"
                self._fail(item, f"{words}; [api] max_answer_bytes allows {self._limit}")

    def _fail(self, item: Recorded, words: str) -> None:
        error = TooLarge(words, limit=self._limit, current=self.used, configKey="api.max_answer_bytes")
        item.outcome = encoded("error", error.to_error_object())
