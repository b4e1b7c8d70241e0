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
from libp2p.abc import INetStream

from fabstird.config import MAX_RELAYS
from fabstird.log import get_logger
from fabstird.p2p import circuit
from fabstird.p2p.addresses import Address, parse
from fabstird.p2p.circuit import HOP, STOP, RelayError, Reservation
from fabstird.p2p.connections import Connections, peer_of
from fabstird.p2p.host import Host, Link

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
                    nursery.start_soon(self._hold, relay)
            while not self._nodes:
                await trio.sleep(LOOK)
                if self._unreachable():
                    for relay in self._others()[: FOUND - len(self._asked)]:
                        self._asked.add(relay)
                        self._host.set_stream_handler(STOP, self._stopped_here)
                        nursery.start_soon(self._hold, relay)

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

    async def _hold(self, relay: str) -> None:
        pause = FIRST_PAUSE
        while True:
            link = self._link(relay)
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
            with trio.move_on_after(renewal(reservation.expires - time.time())):
                await link.gone.wait()
            if link.is_closed:
                self._drop(relay)

    def _link(self, relay: str) -> Link | None:
        """A connection of our own to the relay; one that leads through another relay is none to build on."""
        direct = [link for link in self._host.links(relay) if not link.relayed]
        return direct[0] if direct else None

    def _take(self, relay: str, link: Link, reservation: Reservation) -> None:
        addresses = reservation.addresses or (parse(link.address).bare,)  # go-libp2p's tells only public ones
        news = relay not in self._held
        self._held[relay] = _Held(link, addresses)
        self._announce()
        if news:
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

    async def _stopped_here(self, stream: INetStream) -> None:
        """A relay brings somebody; it must be one that we have asked to."""
        relay = stream.muxed_conn.peer_id.to_base58()
        links = [link for link in self._host.links(relay) if link.muxed_conn is stream.muxed_conn]
        with trio.fail_after(ASK):
            if relay not in self._asked or not links:
                await circuit.refuse(stream)
                return
            pipe = await circuit.accept(stream, links[0])
        await self._host.swarm.accept_circuit(pipe)


def renewal(remaining: float) -> float:
    """Seconds until a reservation is renewed that ends in so many; a relay's clock may be off by anything."""
    return min(max(remaining / 2, SHORTEST), LONGEST)
