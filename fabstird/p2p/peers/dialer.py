"""Every dial goes through here. It is counted once, noted in the history, and joined by others who want the same
address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import DialError, DialLimit, Host, Link
from fabstird.p2p.net.race import race
from fabstird.p2p.peers.dial_policy import USER, Attempts, Source, refusal
from fabstird.p2p.peers.history import History
from fabstird.p2p.wire.addresses import Address, AddressError, parse
from fabstird.p2p.wire.ips import to_ip

_IP_VERSIONS = {"ip4": "ip4", "dns4": "ip4", "ip6": "ip6", "dns6": "ip6"}


@dataclass(slots=True)
class _Flight:
    """A dial under way. ``error`` is set if it failed; neither field is if it was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    link: Link | None = None
    error: DialError | None = None


def dial_labels(address: str) -> tuple[str, str]:
    """Transport and IP version of any address text, as labels from a closed set."""
    parts = address.split("/")
    transport = next((name for name in ("wss", "ws", "quic-v1", "tcp") if name in parts), "other")
    if transport == "ws" and "tls" in parts:
        transport = "wss"
    return transport, _IP_VERSIONS.get(parts[1] if len(parts) > 1 else "", "unknown")


class Dialer:
    """Dials for one run of the node. ``timeout`` (seconds) applies to each dial."""

    def __init__(self, host: Host, counters: Counters, history: History, timeout: float) -> None:
        self.fence = host.fence
        self._host = host
        self._counters = counters
        self._history = history
        self._timeout = timeout
        self._flights: dict[str, _Flight] = {}
        self._attempts = Attempts()

    async def dial(self, address: str, peer_id: str | None, source: Source = USER) -> Link:
        """Connect to an address, or join the dial of it that is under way.

        Args:
            address: A multiaddr.
            peer_id: The peer that it names.
            source: Who named the address.

        Raises:
            DialError: The dial failed, or is not allowed for this source.
        """
        while (flight := self._flights.get(address)) is not None:
            await flight.done.wait()
            if flight.link is not None and not flight.link.is_closed:
                return flight.link
            if flight.error is not None:
                raise flight.error
        if source.kind == "user":
            return await self._begin(address, peer_id, source)
        return await self._begin_suggested(address, peer_id, source)

    async def _begin_suggested(self, address: str, peer_id: str | None, source: Source) -> Link:
        try:
            parsed = parse(address)
        except AddressError as error:
            raise DialError(str(error), "bad address") from error
        if (words := refusal(parsed, source)) is not None:
            raise DialError(words, "forbidden")
        if source.kind == "nearby":  # which has its own pauses
            return await self._begin(address, peer_id, source)
        return await self._attempt(address, peer_id, parsed, source)

    async def _attempt(self, address: str, peer_id: str | None, parsed: Address, source: Source) -> Link:
        ip = to_ip(parsed.host)
        assert ip is not None, "the policy lets no name through"
        if (words := self._attempts.begin(ip, parsed.port, trio.current_time())) is not None:
            raise DialError(words, "forbidden")
        try:
            link = await self._begin(address, peer_id, source)
        except DialLimit:
            raise  # our own limit says nothing about the address
        except DialError:
            self._attempts.failed(ip, parsed.port, trio.current_time())
            raise
        self._attempts.succeeded(ip, parsed.port)
        return link

    async def first(self, peer_id: str, addresses: Sequence[str], source: Source = USER) -> Link:
        """Race a peer's addresses; returns the link of the first that connects. Dials under way are joined. Raises
        `NoneConnected`."""
        return await race(addresses, lambda address: self.dial(address, peer_id, source))

    async def _begin(self, address: str, peer_id: str | None, source: Source) -> Link:
        flight = self._flights[address] = _Flight()
        began = trio.current_time()
        try:
            with self.fence.around("dial", but=DialError):
                flight.link = await self._host.dial(address, timeout=self._timeout)
            if flight.link is None:
                raise DialError("this daemon has failed in it; see its log")
            self._counters.dials["success",].observe(trio.current_time() - began)
        except DialError as error:
            flight.error = error
            if source.kind == "suggested":
                self._counters.failed_dht_dials += 1
            else:
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
