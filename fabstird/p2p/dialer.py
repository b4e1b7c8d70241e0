"""Every dial goes through here: counted once, written into the history, and joined by who wants the same address."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from fabstird.metrics import Counters
from fabstird.p2p.history import History
from fabstird.p2p.host import DialError, Host, Link

_IP_VERSIONS = {"ip4": "ip4", "dns4": "ip4", "ip6": "ip6", "dns6": "ip6"}


@dataclass(slots=True)
class _Flight:
    """A dial under way. ``error`` is set where it failed, neither of them where it was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    link: Link | None = None
    error: DialError | None = None


def dial_labels(address: str) -> tuple[str, str]:
    """Transport and IP version for the metrics, of any text that is to be dialled: words of a closed set."""
    parts = address.split("/")
    transport = next((name for name in ("ws", "quic-v1", "tcp") if name in parts), "other")
    return transport, _IP_VERSIONS.get(parts[1] if len(parts) > 1 else "", "unknown")


class Dialer:
    """``timeout`` (seconds) applies to each dial."""

    def __init__(self, host: Host, counters: Counters, history: History, timeout: float) -> None:
        self._host = host
        self._counters = counters
        self._history = history
        self._timeout = timeout
        self._flights: dict[str, _Flight] = {}

    async def dial(self, address: str, peer_id: str | None) -> Link:
        """Connect to an address, or wait for the dial of it that is under way; ``peer_id`` is the peer it names.

        Raises `DialError`.
        """
        while (flight := self._flights.get(address)) is not None:
            await flight.done.wait()
            if flight.link is not None and not flight.link.is_closed:
                return flight.link
            if flight.error is not None:
                raise flight.error
        return await self._begin(address, peer_id)

    async def _begin(self, address: str, peer_id: str | None) -> Link:
        flight = self._flights[address] = _Flight()
        began = trio.current_time()
        try:
            flight.link = await self._host.dial(address, timeout=self._timeout)
            self._counters.dials["success",].observe(trio.current_time() - began)
        except DialError as error:
            flight.error = error
            self._counters.failed_connections += 1
            self._counters.dials["failed",].observe(trio.current_time() - began)
            transport, version = dial_labels(address)
            self._counters.dial_errors[transport, error.kind, version] += 1
            self._history.note(peer_id or address, "dial_failed", address=address, detail=str(error))
            raise
        finally:
            del self._flights[address]
            flight.done.set()
        return flight.link

    def __len__(self) -> int:
        return len(self._flights)
