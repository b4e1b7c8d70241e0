"""The node: it can be started and stopped any number of times, with one identity.

One task, `Node.serve`, owns each run; `start` and `stop` only set what is wanted, and wait for it. libp2p takes longer
to import than everything else, so `run`, which needs it, is imported only by `load`, in a thread.
"""

from __future__ import annotations

import gc
import importlib.metadata
import sys
import time
from typing import TYPE_CHECKING

import trio

from fabstir_client.api.errors import InvalidParams, InvalidState, ListenFailed, NodeNotRunning
from fabstir_client.api.types import NodeStarted, NodeState, NodeStopped, StreamTotals
from fabstird.config import Config, ConfigError, ConnectionsConfig, NodeConfig, override_node
from fabstird.events import EventLog
from fabstird.identity import Identity
from fabstird.log.logger import adopt_libraries, get_logger
from fabstird.metrics.counters import Counters, Totals
from fabstird.p2p.fence import Fence
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.history import History
from fabstird.p2p.view import NoRun, View
from fabstird.threads import imported, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fabstird.p2p.run import Run, Shared

log = get_logger("node")

_RUN = "fabstird.p2p.run"
_loaded = False  # libp2p and everything that needs it is imported
_first: bool | None = None  # the first import in this process is under way


class Node:
    """The state machine, and the owner of the runs. Every method is for tasks of the same trio run. ``view`` is the
    state of the current run; ``settings`` are those of the current run, or of the last."""

    def __init__(self, config: Config, identity: Identity, events: EventLog, counters: Counters, book: Book) -> None:
        self.state: NodeState = "stopped"
        self.error: str | None = None
        self.fence = Fence()
        self.identity = identity
        self.book = book
        self.settings = config.node
        self.view: View = NoRun(identity.peer_id)
        self._config = config
        self._limits = config.connections
        self._events = events
        self._counters = counters
        self._history = History()
        self._shared: Shared | None = None  # made once libp2p is imported
        self._run: Run | None = None
        self._failure: ListenFailed | None = None
        self._wanted: NodeConfig | None = None  # the settings to start with; None to be stopped
        self._scope: trio.CancelScope | None = None  # ends the current run
        self._changed = trio.Event()
        self._entered = time.monotonic()  # when it entered the current state

    # ----------------------------------------------------------------------------------------------------------------
    # Start and stop

    def will_start(self) -> None:
        """`serve` is about to start the node, so it is not reported as stopped until then. A stop that comes first
        wins."""
        self._wanted = self.settings
        self._enter("starting")

    async def start(self, overrides: Mapping[str, Any] | None = None) -> None:
        """Start the node; do nothing if it is started. Returns once it listens, without waiting for any dial.

        Raises:
            InvalidParams: ``overrides`` are wrong.
            InvalidState: It is started with another configuration.
            ListenFailed: An address cannot be listened on.
        """
        try:
            wanted = override_node(self._config.node, overrides or {})
        except ConfigError as error:
            raise InvalidParams("; ".join(error.mistakes), param="config", mistakes=error.mistakes) from error
        while self.state == "stopping":
            await self._changed.wait()
        if self.state in ("starting", "started"):
            if overrides and wanted != self.settings:
                raise InvalidState("the node is started with another configuration; stop it first")
        else:
            self._wanted = self.settings = wanted
            self._failure = None
            self._enter("starting")
        while self.state == "starting":
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        if self.state != "started":
            raise InvalidState("the node was stopped before it had started")

    async def stop(self, reason: str = "stopped") -> None:
        """Stop the node; do nothing if it is stopped. Returns when every connection, dial and retry has ended.
        ``reason`` is the reason that connections report."""
        if self._run is not None:
            self._run.host.part_as(reason)
        if self.state in ("starting", "started"):
            self._enter("stopping")
            if self._scope is not None:
                self._scope.cancel()
        elif self.state == "failed":
            self._enter("stopped")
        while self.state == "stopping":
            await self._changed.wait()

    async def serve(self) -> None:
        """Start and stop the node as wanted, until cancelled. An error that is not a failed start leaves this method
        and ends the process."""
        while True:
            while self._wanted is None:
                await self._changed.wait()
            wanted, self._wanted = self._wanted, None
            with trio.CancelScope() as scope:
                self._scope = scope
                if self.state == "stopping":  # it was stopped before this task had its turn
                    scope.cancel()
                await self._run_once(wanted)
            self._scope = None
            if self.state != "failed":
                self._enter("stopped")

    async def _run_once(self, settings: NodeConfig) -> None:
        shared = await self.shared()
        from fabstird.p2p.run import running

        announced = False
        try:
            async with running(shared, settings) as run:
                # A thread cannot be cancelled: a stop that came meanwhile takes effect here
                await trio.lowlevel.checkpoint_if_cancelled()
                self._run = self.view = run
                run.set_limits(self._limits)  # a reload may have changed them meanwhile
                announced = True
                self._enter("started")
                started = NodeStarted(peer_id=self.identity.peer_id, listen_addresses=run.listen_addresses())
                self._events.publish(started)
                try:
                    # A stop cancels this scope; the host around it then closes in order.
                    with trio.CancelScope() as self._scope:
                        await run.serve()
                finally:
                    if self.state == "started":  # the daemon itself is ending
                        self._enter("stopping")
        except ListenFailed as error:
            log.warning("node failed to start", error=str(error))
            if self.state == "starting":  # otherwise it is being stopped, and has ended now
                self._failure = error
                self.error = str(error)
                self._enter("failed")
        finally:
            self._counters.totals += self.view.totals()
            self._run, self.view = None, NoRun(self.identity.peer_id)
            if announced:
                await self.book.save_at_last()
                self._events.publish(NodeStopped(peer_id=self.identity.peer_id))

    def _enter(self, state: NodeState) -> None:
        self.state = state
        self._entered = time.monotonic()
        if state != "failed":
            self.error = None
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait for the next change of state."""
        await self._changed.wait()

    # ----------------------------------------------------------------------------------------------------------------
    # What can be asked of it

    def run(self) -> Run:
        """The parts of the started node. Raises `NodeNotRunning`."""
        if self._run is None or self.state != "started":
            raise NodeNotRunning(f"the node is {self.state}; call start first", state=self.state)
        return self._run

    async def shared(self) -> Shared:
        """The parts that work in any state, once libp2p is imported."""
        await load()
        from fabstird.p2p.run import Shared

        if self._shared is None:
            self._shared = Shared(
                self._config, self.identity, self._events, self._counters, self.book, self._history, self.fence
            )
            self._shared.limits = self._limits
        return self._shared

    def set_limits(self, limits: ConnectionsConfig) -> None:
        """Apply new limits of ``[connections]``."""
        self._limits = limits
        if self._shared is not None:
            self._shared.limits = limits
        if self._run is not None:
            self._run.set_limits(limits)

    def reload_certificate(self) -> str:
        """Read the files of ``[tls]`` again. If they are wrong, returns why, and keeps the old certificate."""
        if self._shared is None:
            return ""
        try:
            self._shared.reload_certificate()
        except Exception as error:  # noqa: BLE001 - whatever the files are, the old certificate stays in use
            return str(error)
        return ""

    def silence(self) -> float:
        """Seconds that the node is overdue: with a start or stop, or while started with the turn of its dial loop that
        an earlier call asked for."""
        if self.state in ("starting", "stopping"):
            return time.monotonic() - self._entered
        return self.view.silence()

    def totals(self) -> Totals:
        """Totals over all runs since the daemon started."""
        return self._counters.totals + self.view.totals()

    def streams(self) -> StreamTotals:
        """Totals of users' streams over all runs since the daemon started."""
        ledger = self._shared.protocols.ledger if self._shared is not None else None
        opened, waiting = ledger.open_and_waiting() if ledger is not None else (0, 0)
        moved = self.stream_bytes()
        return StreamTotals(
            open=opened,
            waiting=waiting,
            ended=self._counters.streams.ended.total(),
            bytes_in=sum(size for (_, way), size in moved.items() if way == "in"),
            bytes_out=sum(size for (_, way), size in moved.items() if way == "out"),
        )

    def stream_bytes(self) -> Mapping[tuple[str, str], int]:
        """By protocol and direction, ``in`` or ``out``."""
        return self._shared.protocols.ledger.moved() if self._shared is not None else {}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Every number that is bounded, and its bound."""
        return {
            "connections": (self.view.connection_count(), self._limits.max),
            **self.book.bounds(),
            **self._history.bounds(),
            **waiting(),
            **(self._shared.protocols.bounds() | self._shared.tunnels.bounds() if self._shared is not None else {}),
            **self.view.bounds(),
        }


async def load() -> None:
    """Import libp2p and everything that needs it, in a thread. Once done, this returns at once. A cancelled caller does
    not wait for the import to end: a stop has less time than an import takes on a busy machine."""
    global _loaded, _first
    if _loaded:
        return
    if _first is None:
        _first = _RUN not in sys.modules
    await imported(_RUN)
    adopt_libraries()
    if _first:
        _first = False
        # Imported modules live as long as the process, so they are hidden from the garbage collector. It also runs less
        # often than a script needs, because a connection is hundreds of objects.
        gc.freeze()
        gc.set_threshold(5000, 20, 20)
        gc.enable()  # `cli` has switched it off
    _loaded = True


def libp2p_version() -> str:
    return importlib.metadata.version("libp2p")
