"""Reservations at relays: so that a node behind a NAT can be reached (libp2p specification, relay/circuit-v2).

Relays that the configuration names are kept connected like bootstrap nodes. Where it names none and the node is known
not to be reachable, bootstrap nodes that are relays are asked. A reservation is renewed at half its time, is gone with
the connection it was made on, and for as long as it holds its addresses are announced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import trio

from fabstird.config import MAX_RELAYS
from fabstird.log.logger import get_logger
from fabstird.p2p.host.host import Host, Link, Stream
from fabstird.p2p.net import circuit
from fabstird.p2p.net.circuit import HOP, STOP, RelayError, Reservation
from fabstird.p2p.peers.cycles import peer_of
from fabstird.p2p.peers.dial_policy import refusal
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.wire.addresses import Address, parse

log = get_logger("p2p.relay")

FOUND = 2  # relays that are looked for where none is configured
LOOK = 1.0  # seconds between two looks for a connection to a relay
ASK = 10.0  # seconds for a relay to answer
FIRST_PAUSE, LAST_PAUSE = 5.0, 300.0  # seconds after a refusal; doubles each time
SHORTEST, LONGEST = 10.0, 3600.0  # seconds until a reservation is renewed


@dataclass(frozen=True, slots=True)
class _Held:
    link: Link
    addresses: tuple[Address, ...]  # of the relay


class Relays:
    """Of one run of the node. ``nodes``: multiaddrs of configured relays. ``unreachable`` says whether others are worth
    asking."""

    def __init__(
        self, host: Host, connections: Connections, nodes: Sequence[str], unreachable: Callable[[], bool]
    ) -> None:
        self._host = host
        self._connections = connections
        self._nodes = nodes
        self._unreachable = unreachable
        self._held: dict[str, _Held] = {}  # by the relay's peer id
        self._asked: set[str] = set()  # relays that may bring connections, because we ask them for reservations

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for address in self._nodes:
                self._host.set_stream_handler(STOP, self._stopped_here)
                self._connections.keep(address)
                relay = peer_of(address)
                if relay is not None:  # else its cycle tells what is wrong with it
                    self._host.fence.keep(nursery, "relay", self._hold, relay)
            while not self._nodes:
                await trio.sleep(LOOK)
                if self._unreachable():
                    for relay in self._others()[: FOUND - len(self._asked)]:
                        self._asked.add(relay)
                        self._host.set_stream_handler(STOP, self._stopped_here)
                        self._host.fence.keep(nursery, "relay", self._hold_while_there, relay)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"relayReservations": (len(self._held), MAX_RELAYS)}

    def _others(self) -> list[str]:
        """Connected bootstrap nodes that are relays and have not been asked."""
        found: list[str] = []
        for address in self._connections.node.bootstrap_nodes:
            relay = peer_of(address)
            info = self._host.info(relay) if relay is not None else None
            if relay is not None and info is not None and HOP in info.protocols and relay not in self._asked:
                found.append(relay)
        return list(dict.fromkeys(found))

    # ----------------------------------------------------------------------------------------------------------------
    # A reservation

    async def _hold_while_there(self, relay: str) -> None:
        """One that was found: once it has gone it may bring nobody, and another one is looked for."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hold, relay)
            while (link := self._host.direct_link(relay)) is not None:
                await link.gone.wait()
            nursery.cancel_scope.cancel()
        self._drop(relay)
        self._asked.discard(relay)

    async def _hold(self, relay: str) -> None:
        pause = FIRST_PAUSE
        while True:
            link = self._host.direct_link(relay)
            if link is None:
                await trio.sleep(LOOK)
                continue
            self._asked.add(relay)
            try:
                with trio.fail_after(ASK):
                    reservation = await circuit.reserve(link)
            except (RelayError, trio.TooSlowError) as error:
                words = str(error) or "the relay does not answer"
                log.warning("no reservation at the relay", relay=relay, error=words, again_in=pause)
                self._drop(relay)
                await trio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self._take(relay, link, reservation)
            due = trio.current_time() + renewal(reservation.expires - time.time())
            with trio.move_on_at(due):
                await link.gone.wait()
            if link.is_closed:
                self._drop(relay)

    def _take(self, relay: str, link: Link, reservation: Reservation) -> None:
        # What a relay says of itself is announced to others, who dial it
        source = self._connections.source(link)
        granted = tuple(address for address in reservation.addresses if refusal(address, source) is None)
        addresses = granted or (parse(link.address).bare,)  # go-libp2p's tells only public ones
        is_new = relay not in self._held
        self._held[relay] = _Held(link, addresses)
        self._announce()
        if is_new:
            log.info(
                "reachable by relay",
                relay=relay,
                expires_in=round(reservation.expires - time.time()),
                limit_seconds=reservation.bounds.duration,
                limit_bytes=reservation.bounds.data,
            )

    def _drop(self, relay: str) -> None:
        if self._held.pop(relay, None) is not None:
            log.info("no longer reachable by relay", relay=relay)
            self._announce()

    def _announce(self) -> None:
        own = self._host.peer_id
        addresses = [
            str(replace(address, relay=relay, peer_id=own))
            for relay, held in self._held.items()
            for address in held.addresses
        ]
        self._host.set_relay_addresses(list(dict.fromkeys(addresses)))

    # ----------------------------------------------------------------------------------------------------------------
    # Who comes by it

    async def _stopped_here(self, stream: Stream) -> None:
        """A relay brings somebody; it must be one that we have asked to."""
        with trio.fail_after(ASK):
            if stream.peer_id not in self._asked or stream.link.is_closed:
                await circuit.refuse(stream)
                return
            pipe = await circuit.accept(stream)
        await self._host.accept_circuit(pipe)


def renewal(remaining: float) -> float:
    """Seconds until a reservation is renewed that ends in so many; a relay's clock may be off by anything."""
    return min(max(remaining / 2, SHORTEST), LONGEST)
