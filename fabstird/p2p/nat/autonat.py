"""AutoNAT, the client's side (libp2p specifications, autonat v1 and v2): peers are asked to dial us back, and what they
say is kept in `Reachability`. A server is asked about one address at a time: so each is checked by itself.

What is known of each address of ours comes together here: whence it is known, whether it is confirmed, and so whether
it is announced.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import trio

from fabstir_client.api.types import AddressReachability
from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import Host, StreamError
from fabstird.p2p.nat.autonat_asking import ASK, DialBacks, Outcome, ask_1
from fabstird.p2p.nat.autonat_messages import DIAL_REQUEST
from fabstird.p2p.nat.autonat_service import AUTONAT
from fabstird.p2p.nat.reachability import (
    MAX_ADDRESSES,
    MAX_SERVERS,
    Reachability,
    candidates,
    in_turn,
    is_public,
    is_seen,
)
from fabstird.p2p.wire.addresses import QUIC, parse
from fabstird.p2p.wire.ips import group_of_host

log = get_logger("p2p.autonat")

LOOK = 1.0  # seconds between two looks at who could be asked
MANY = 500  # peers that are looked at in that time; with more of them it takes longer between two looks
Whence = Literal["interface", "mapped", "observed", "announced", "relay"]
JS = "js-libp2p"  # in agents whose version 1 takes the connection that there is for its dial back, and closes it
CUT = 3600.0  # seconds for which a server that has cut a question of version 1 is asked none
PAUSE = 30.0  # seconds for which a server that was asked is left alone; go-libp2p's answers three a minute


@dataclass(frozen=True, slots=True)
class _Server:
    """``ip`` is an IP address, or an IPv6 /64; ``version`` of AutoNAT."""

    peer_id: str
    ip: str
    version: Literal["1", "2"]


class AutoNat:
    """Of one run of the node."""

    def __init__(self, host: Host, counters: Counters) -> None:
        self._host = host
        self._counters = counters
        self._known = Reachability()
        self._dial_backs = DialBacks(host)
        self._asked: dict[str, float] = {}  # when, by the server's IP address
        self._cut: dict[str, float] = {}  # when, by the server's peer id
        self._wall_ahead = time.time() - trio.current_time()

    def start(self) -> None:
        """Take dial backs from now on, until the host closes."""
        self._dial_backs.start()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK * max(1.0, len(self._host.links()) / MANY))
                now = trio.current_time()
                self._asked = {ip: at for ip, at in self._asked.items() if at + PAUSE > now}
                self._cut = {peer_id: at for peer_id, at in self._cut.items() if at + CUT > now}
                addresses = self._candidates()
                self._known.keep(addresses)
                self._announce(addresses, now)
                for server in self._servers()[:MAX_SERVERS]:
                    due = [address for address in addresses if self._known.due(address, server.ip, now)]
                    due = [address for address in due if self._can_say(server, address)]
                    if due and server.ip not in self._asked:
                        self._asked[server.ip] = now
                        self._host.fence.spawn(nursery, "autonat", self._ask, server, due[0])

    def is_private(self) -> bool:
        """Several servers have tried, and nobody got through."""
        return self._known.is_private(trio.current_time())

    def is_reachable(self) -> bool:
        """An address is confirmed by several servers."""
        now = trio.current_time()
        return any(self._known.is_reachable(address, now) for address in self._known.said)

    def verdict(self) -> bool | None:
        """Whether others can reach this node, as servers say; None where they do not."""
        return True if self.is_reachable() else False if self.is_private() else None

    def may_tell(self, text: str) -> bool:
        """Whether an announced address, with ``/p2p/``, may be told in the public DHT: one that the operator has named,
        that leads through a relay, or that servers have confirmed. While these say nothing of it, it is enough that a
        peer sees us just there: then no NAT stands between. What is not public is for `dht.heard` to judge."""
        host = self._host
        bare = text.rpartition("/p2p/")[0]
        if not is_public(bare) or text in host.relay_addresses() or text in host.given_addresses():
            return True
        now = trio.current_time()
        if self._known.is_reachable(bare, now):
            return True
        return not self._known.is_unreachable(bare, now) and is_seen(bare, self._observed())

    def addresses(self) -> list[AddressReachability]:
        """Every address that the node listens on, tells or is being checked for, and how it stands."""
        host, own = self._host, f"/p2p/{self._host.peer_id}"
        relayed, listened, given, mapped = (
            dict.fromkeys(texts)
            for texts in (
                host.relay_addresses(),
                host.listen_addresses(),
                host.given_addresses(),
                host.mapped_addresses(),
            )
        )
        found = {address + own for address in self._candidates()} - {*listened, *given, *mapped}
        observed = (set(host.observed_addresses()) | found) - set(relayed)
        sources: dict[Whence, Container[str]] = {
            "interface": listened,
            "mapped": mapped,
            "observed": observed,
            "announced": given,
            "relay": relayed,
        }
        texts = dict.fromkeys([*listened, *mapped, *host.announced_addresses(), *sorted(found)])
        return [self._state(text, [whence for whence, known in sources.items() if text in known]) for text in texts]

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"checkedAddresses": (len(self._known.said), MAX_ADDRESSES)}

    def _state(self, text: str, known_from: list[Whence]) -> AddressReachability:
        if "relay" in known_from:
            return AddressReachability(address=text, state="relayed", reachable="relayed", known_from=known_from)
        bare, now = text.rpartition("/p2p/")[0], trio.current_time()
        checked = self._known.checked(bare)
        is_reachable = self._known.is_reachable(bare, now)
        failed: Literal["unreachable", "unknown"] = (
            "unreachable" if self._known.is_unreachable(bare, now) else "unknown"
        )
        return AddressReachability(
            address=text,
            state="reachable" if is_reachable else "unknown",
            checked_at=int((checked + self._wall_ahead) * 1000) if checked is not None else None,
            known_from=known_from,
            reachable="reachable" if is_reachable else failed,
            confirmed_by=self._known.confirmations(bare, now),
        )

    def _candidates(self) -> list[str]:
        host = self._host
        return candidates(host.announced_addresses(), host.listen_addresses(), self._observed())

    def _observed(self) -> list[tuple[str, str]]:
        """Addresses at which peers see us, each with the host at which that peer is."""
        host = self._host
        return [
            (info.observed, link.pipe.remote.host)
            for link in host.links()
            if not link.relayed and (info := host.info(link.peer_id)) is not None and info.observed
        ]

    def _announce(self, addresses: list[str], now: float) -> None:
        """A port that a router forwards to us is told to peers once it is confirmed; what nobody reaches is not."""
        listened = {text.rpartition("/p2p/")[0] for text in self._host.listen_addresses()}
        confirmed = [text for text in addresses if text not in listened and self._known.is_reachable(text, now)]
        self._host.set_checked(confirmed, [text for text in addresses if self._known.is_unreachable(text, now)])

    def _servers(self) -> list[_Server]:
        """Connected peers that offer it, one for each IP address: where two do, that by whom nothing must be believed.
        Those of one network stand in no other's way."""
        found: dict[str, _Server] = {}
        for link in self._host.links():
            info = self._host.info(link.peer_id)
            if info is None or link.relayed:
                continue
            first = AUTONAT in info.protocols and JS not in info.agent_version and link.peer_id not in self._cut
            if not (first or DIAL_REQUEST in info.protocols):
                continue
            ip = group_of_host(link.pipe.remote.host)
            if DIAL_REQUEST in info.protocols and (ip not in found or found[ip].version == "1"):
                found[ip] = _Server(link.peer_id, ip, "2")
            else:
                found.setdefault(ip, _Server(link.peer_id, ip, "1"))
        return [found[ip] for ip in in_turn(found)]

    def _can_say(self, server: _Server, address: str) -> bool:
        """Whether a server can say anything of an address. One of version 1 that does not speak QUIC may dial another
        one instead, and say that this has failed."""
        if server.version == "2" or parse(address).transport != QUIC:
            return True
        return self._host.best_link(server.peer_id).transport == QUIC

    async def _ask(self, server: _Server, address: str) -> None:
        outcome: Outcome = "error"
        words = ""
        try:
            with trio.fail_after(ASK):
                if server.version == "2":
                    outcome = await self._dial_backs.ask(server.peer_id, address)
                else:
                    outcome = await ask_1(self._host, server.peer_id, address)
        except (StreamError, trio.TooSlowError) as error:
            words = str(error) or "timed out"
            if server.version == "1" and isinstance(error, StreamError):
                self._cut[server.peer_id] = trio.current_time()
        log.debug(
            "dialled back", server=server.peer_id, asked=address, version=server.version, outcome=outcome, words=words
        )
        self._counters.autonat_asked[server.version, outcome] += 1
        reached = {"reached": True, "failed": False}.get(outcome)
        now = trio.current_time()
        self._known.record(address, server.ip, reached=reached, now=now)
        self._announce(self._candidates(), now)
