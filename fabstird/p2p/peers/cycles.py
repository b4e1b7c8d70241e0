"""The cycles of dials of bootstrap and kept addresses, as `policy` decides, and their events."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import trio

from fabstir_client.api.types import BootstrapError, ConnectionCancelled, ConnectionFailed, ConnectionRetry
from fabstird.config import NodeConfig
from fabstird.events import EventLog
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import DialError, Link
from fabstird.p2p.peers import policy
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.dialer import Dialer
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.policy import Cycle, Retry
from fabstird.p2p.wire.addresses import AddressError, parse


@dataclass(slots=True, eq=False)
class _Dial:
    """A dial begun by a cycle. Its outcome matters to the cycle only while it is the address's current dial: the
    address may be forgotten, kept and dialled again before it ends."""

    address: str
    peer_id: str | None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Cycles:
    """The cycles of one run. ``connected`` always has the ids of connected peers. ``changed`` is called when a new plan
    is needed."""

    def __init__(
        self,
        node: NodeConfig,
        events: EventLog,
        counters: Counters,
        book: Book,
        history: History,
        connected: Collection[str],
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._events = events
        self._counters = counters
        self._book = book
        self._history = history
        self._connected = connected
        self._changed = changed
        self._clock = clock
        self._settings = policy.Settings(
            max_retries=node.max_retries,
            retry_delay=node.retry_delay,
            keepalive=node.keepalive_interval / 1000 if node.keepalive_interval else policy.NEVER,
        )
        self._cycles = {text: Cycle(text, peer_of(text)) for text in (*node.bootstrap_nodes, *book.kept)}
        self._dials: dict[str, _Dial] = {}  # dials under way, by address

    def all(self) -> Collection[Cycle]:
        return self._cycles.values()

    def keep(self, address: str) -> None:
        """Stay connected to an address from now on, as to a bootstrap node."""
        if address in self._cycles:
            return
        cycle = Cycle(address, peer_of(address), due=self._clock())
        if cycle.peer_id is not None and cycle.peer_id in self._connected:
            cycle = policy.peer_connected(cycle, cycle.peer_id)
        self._cycles[address] = cycle
        self._changed()

    def forget(self, address: str) -> None:
        """Stop doing so. A dial under way is cancelled; a connection stays."""
        if address in self._node.bootstrap_nodes:
            return
        self._cycles.pop(address, None)
        if (dial := self._dials.pop(address, None)) is not None:
            dial.scope.cancel()
        self._changed()

    def match_kept(self) -> None:
        """Follow what the book keeps now: users may have changed it while the node was starting."""
        for address in self._book.kept:
            self.keep(address)
        for address in set(self._cycles).difference(self._book.kept):
            self.forget(address)

    def is_bootstrap(self, peer_id: str) -> bool:
        """Whether the configuration names the peer."""
        return any(
            cycle.peer_id == peer_id and cycle.address in self._node.bootstrap_nodes for cycle in self._cycles.values()
        )

    def waiting(self) -> int:
        """The number of addresses that wait for their next dial."""
        return sum(cycle.phase in ("due", "waiting", "resting") for cycle in self._cycles.values())

    # ----------------------------------------------------------------------------------------------------------------
    # What happens to their peers

    def connected(self, peer_id: str) -> None:
        for address, cycle in self._cycles.items():
            if cycle.peer_id == peer_id and cycle.phase != "dialling":
                self._cycles[address] = policy.peer_connected(cycle, peer_id)

    def left(self, peer_id: str, *, asked: bool) -> None:
        """The peer's last connection has ended; ``asked`` if a user disconnected it."""
        for address, cycle in self._cycles.items():
            if cycle.peer_id == peer_id and cycle.phase == "connected":
                self._cycles[address] = policy.peer_left(cycle, self._clock(), self._settings, asked=asked)

    def begin_afresh(self) -> None:
        """Begin every waiting cycle now: the machine has slept, or its clock was moved."""
        now = self._clock()
        self._cycles = {address: policy.after_sleep(cycle, now) for address, cycle in self._cycles.items()}

    def cut_off(self) -> None:
        """The node stops: report the cycles that this interrupts."""
        for cycle in policy.cut_off(self._cycles.values()):
            self._events.publish(ConnectionCancelled(address=cycle.address, attempts=cycle.attempts))

    # ----------------------------------------------------------------------------------------------------------------
    # A dial

    def begin(self, address: str, dialer: Dialer, nursery: trio.Nursery) -> None:
        """Dial an address, in ``nursery``."""
        cycle = self._cycles[address] = policy.begin_dial(self._cycles[address])
        if cycle.attempts > 1:
            self._counters.retries += 1
        dial = self._dials[address] = _Dial(address, cycle.peer_id)
        dialer.fence.spawn(nursery, "dial", self._dial, dial, dialer)

    def drop(self, address: str) -> None:
        """Cancel the dial of an address whose peer is connected another way."""
        self._dials[address].scope.cancel()

    async def _dial(self, dial: _Dial, dialer: Dialer) -> None:
        error: DialError | None = None
        link: Link | None = None
        try:
            with dial.scope:
                try:
                    link = await dialer.dial(dial.address, dial.peer_id)
                except DialError as failure:
                    error = failure
        finally:
            current = self._dials.get(dial.address) is dial  # otherwise it was forgotten, and this outcome is ignored
            if current:
                del self._dials[dial.address]
            self._changed()
        if not current:
            return
        if error is not None:
            self._failed(dial.address, str(error))
        elif (peer_id := dial.peer_id if link is None else link.peer_id) is not None:
            self._settle(dial.address, peer_id)  # also if it was cancelled because its peer is connected another way

    def _settle(self, address: str, peer_id: str) -> None:
        cycle = policy.peer_connected(self._cycles[address], peer_id)
        if peer_id not in self._connected:  # it has left again before this task got its turn
            cycle = policy.peer_left(cycle, self._clock(), self._settings, asked=False)
        self._cycles[address] = cycle

    def _failed(self, address: str, words: str) -> None:
        peer_id = self._cycles[address].peer_id
        if peer_id is not None and peer_id in self._connected:  # connected another way: the cycle ends without an event
            self._settle(address, peer_id)
            return
        cycle = self._cycles[address]
        _, outcome = policy.dial_failed(cycle, self._clock(), self._settings)
        if outcome.first:
            self._events.publish(BootstrapError(type="BOOTSTRAP_CONNECTION_FAILED", address=address, message=words))
        if isinstance(outcome, Retry):
            self._events.publish(
                ConnectionRetry(
                    address=address,
                    attempt=outcome.attempt,
                    max_retries=self._settings.max_retries,
                    delay=outcome.delay,
                    error=words,
                )
            )
        else:
            attempts = outcome.attempts
            self._history.note(peer_id or address, "gave_up", address=address, detail=f"after {attempts} dials")
            self._events.publish(
                ConnectionFailed(address=address, attempts=attempts, reason="Max retries exceeded", error=words)
            )
        # The delay counts from when the event was published
        self._cycles[address], _ = policy.dial_failed(cycle, self._clock(), self._settings)


def peer_of(address: str) -> str | None:
    """The peer that an address names; None where it names none, or none that can be decoded."""
    try:
        return parse(address).peer_id
    except AddressError:
        return None  # it is dialled in its cycle all the same, and each dial reports what is wrong
