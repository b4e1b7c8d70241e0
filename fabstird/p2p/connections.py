"""The connection manager of one run of the node: dials what `policy` plans, and tells what happened to connections.

It is the host's observer: libp2p's connection path calls it, so those methods only count, publish and poke. The loop in
`run` owns every dial of a bootstrap node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from fabstir_client.errors import DeadlineExceeded, DialFailed, InvalidParams, InvalidState, LimitExceeded, PeerNotFound
from fabstir_client.types import (
    BootstrapError,
    ConnectionCancelled,
    ConnectionFailed,
    ConnectionRetry,
    ConnectResult,
    Peer,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
)
from fabstir_client.types import Connection as ConnectionRecord
from fabstird.config import NodeConfig
from fabstird.events import EventLog
from fabstird.log import get_logger
from fabstird.metrics import Counters
from fabstird.p2p import policy
from fabstird.p2p.addresses import AddressError, normal_peer_id, parse
from fabstird.p2p.book import Book
from fabstird.p2p.host import DialError, DialLimit, Host, Link, PeerInfo, ProtocolUnsupported, StreamError
from fabstird.p2p.policy import Cycle, Retry

log = get_logger("connections")


@dataclass(slots=True)
class _Connected:
    """A peer with at least one link, oldest first. ``opened`` and ``since`` are its first link's, gone or not."""

    links: list[Link]
    since: int  # ms, wall clock
    opened: float  # s, steady clock


class Connections:
    """``clock`` gives seconds and runs with trio's deadlines."""

    def __init__(
        self,
        node: NodeConfig,
        events: EventLog,
        counters: Counters,
        book: Book,
        *,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._node = node
        self._events = events
        self._counters = counters
        self._book = book
        self._clock = clock
        self._settings = policy.Settings(
            max_retries=node.max_retries,
            retry_delay=node.retry_delay,
            keepalive=node.keepalive_interval / 1000 if node.keepalive_interval else policy.NEVER,
        )
        self._host: Host | None = None
        self._peers: dict[str, _Connected] = {}  # by peer id, our own account: LAB.md, trap 17
        self._cycles = {text: Cycle(text, _peer_of(text)) for text in node.bootstrap_nodes}
        self._dials: dict[str, trio.CancelScope] = {}
        self._asked: set[str] = set()  # peers that a user is disconnecting
        self._poke = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # The loop

    async def run(self, host: Host) -> None:
        """Dial bootstrap nodes until cancelled; then tell which cycles that cut off."""
        self._host = host
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    poke = self._poke
                    plan = policy.plan(self._clock(), self._cycles.values(), self._peers.keys())
                    for address in plan.drop:
                        self._dials[address].cancel()
                    for address in plan.dial:
                        self._begin(address, nursery)
                    with trio.move_on_after(plan.wake_at - self._clock()):
                        await poke.wait()
        finally:
            for cycle in policy.cut_off(self._cycles.values()):
                self._events.publish(ConnectionCancelled(address=cycle.address, attempts=cycle.attempts))

    def _begin(self, address: str, nursery: trio.Nursery) -> None:
        cycle = self._cycles[address] = policy.begin_dial(self._cycles[address])
        if cycle.attempts > 1:
            self._counters.retries += 1
        self._dials[address] = trio.CancelScope()
        nursery.start_soon(self._dial, address)

    async def _dial(self, address: str) -> None:
        assert self._host is not None
        try:
            with self._dials[address] as scope:
                try:
                    link = await self._host.dial(address, timeout=self._node.dial_timeout / 1000)
                except DialError as error:
                    self._failed(address, str(error))
                else:
                    self._succeeded(address, link)
            if scope.cancelled_caught:  # its peer is connected another way: the cycle ends quietly
                peer_id = self._cycles[address].peer_id
                if peer_id is not None:
                    self._settle(address, peer_id)
        finally:
            del self._dials[address]
            self._wake()

    def _succeeded(self, address: str, link: Link) -> None:
        self._book.seen(link.peer_id, [link.address])
        self._settle(address, link.peer_id)

    def _settle(self, address: str, peer_id: str) -> None:
        cycle = policy.peer_connected(self._cycles[address], peer_id)
        if peer_id not in self._peers:  # it has left again while this task was waiting for its turn
            cycle = policy.peer_left(cycle, self._clock(), self._settings, asked=False)
        self._cycles[address] = cycle

    def _failed(self, address: str, words: str) -> None:
        self._counters.failed_connections += 1
        peer_id = self._cycles[address].peer_id
        if peer_id is not None and peer_id in self._peers:  # connected another way: the cycle ends quietly
            self._settle(address, peer_id)
            return
        cycle, outcome = policy.dial_failed(self._cycles[address], self._clock(), self._settings)
        self._cycles[address] = cycle
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
            self._events.publish(
                ConnectionFailed(address=address, attempts=outcome.attempts, reason="Max retries exceeded", error=words)
            )

    def _wake(self) -> None:
        self._poke.set()
        self._poke = trio.Event()

    # ----------------------------------------------------------------------------------------------------------------
    # What the host tells

    def connected(self, link: Link) -> None:
        if link.direction_text == "inbound":
            self._counters.inbound_connections += 1
        else:
            self._counters.outbound_connections += 1
        peer = self._peers.get(link.peer_id)
        if peer is not None:
            peer.links.append(link)
            return
        self._peers[link.peer_id] = _Connected([link], link.opened_at, link.opened)
        for address, cycle in self._cycles.items():
            if cycle.peer_id == link.peer_id and cycle.phase != "dialling":
                self._cycles[address] = policy.peer_connected(cycle, link.peer_id)
        self._events.publish(PeerConnected(peer_id=link.peer_id, address=link.address, direction=link.direction_text))
        self._wake()

    def disconnected(self, link: Link) -> None:
        reason = link.reason or "error"
        self._counters.closed[reason] += 1
        peer = self._peers[link.peer_id]
        peer.links.remove(link)
        if peer.links:
            return
        del self._peers[link.peer_id]
        asked = link.peer_id in self._asked
        for address, cycle in self._cycles.items():
            if cycle.peer_id == link.peer_id and cycle.phase == "connected":
                self._cycles[address] = policy.peer_left(cycle, self._clock(), self._settings, asked=asked)
        duration = int((trio.current_time() - peer.opened) * 1000)
        self._events.publish(PeerDisconnected(peer_id=link.peer_id, reason=reason, duration=duration))
        self._wake()

    def identified(self, link: Link, info: PeerInfo) -> None:
        addresses = [f"{address}/p2p/{link.peer_id}" for address in info.addresses]
        self._book.seen(link.peer_id, addresses)
        self._events.publish(
            PeerIdentified(
                peer_id=link.peer_id,
                agent_version=info.agent_version,
                protocol_version=info.protocol_version,
                protocols=list(info.protocols),
                addresses=addresses,
            )
        )

    # ----------------------------------------------------------------------------------------------------------------
    # What users ask

    def peers(self) -> list[Peer]:
        """One entry a peer, in the order in which they connected."""
        return [self._record(peer_id, peer) for peer_id, peer in self._peers.items()]

    def peer_ids(self) -> list[str]:
        return list(self._peers)

    def count(self) -> int:
        """Connections that are up."""
        return sum(len(peer.links) for peer in self._peers.values())

    def _record(self, peer_id: str, peer: _Connected) -> Peer:
        info = self._host.info(peer_id) if self._host is not None else None
        links = peer.links
        outbound = [link.address for link in links if link.direction_text == "outbound"]
        latencies = [link.latency for link in links if link.latency is not None]
        return Peer(
            peer_id=peer_id,
            direction=links[0].direction_text,
            connected_at=peer.since,
            addresses=list(dict.fromkeys([*outbound, *self._book.addresses(peer_id)])),
            connections=[
                ConnectionRecord(
                    address=link.address,
                    direction=link.direction_text,
                    opened_at=link.opened_at,
                    transport=link.transport,
                    security=link.security,
                    muxer=link.muxer,
                    streams=len(link.streams),
                )
                for link in links
            ],
            protocols=list(info.protocols) if info else [],
            tags={},
            protected=False,
            bootstrap=any(cycle.peer_id == peer_id for cycle in self._cycles.values()),
            agent_version=info.agent_version if info else None,
            protocol_version=info.protocol_version if info else None,
            latency=min(latencies) if latencies else None,
        )

    async def connect(self, target: str, timeout: int | None) -> ConnectResult:
        """Connect to a multiaddr with ``/p2p/`` or to a peer id whose addresses are known; any back-off is bypassed.

        ``timeout`` (ms) is the call's own deadline. Raises `InvalidParams`, `PeerNotFound`, `LimitExceeded`,
        `DeadlineExceeded`, or `DialFailed` with the error of each address in words.
        """
        assert self._host is not None
        peer_id, addresses = self._targets(target)
        peer = self._peers.get(peer_id)
        if peer is not None:
            link = peer.links[0]
            return ConnectResult(
                peer_id=peer_id, address=link.address, direction=link.direction_text, already_connected=True
            )
        if not addresses:
            raise PeerNotFound(f"no address of {peer_id} is known", peerId=peer_id)
        limit = self._node.request_timeout if timeout is None else timeout
        with trio.move_on_after(limit / 1000):
            link = await self._first(peer_id, addresses)
            self._book.seen(peer_id, [link.address])
            return ConnectResult(peer_id=peer_id, address=link.address, direction="outbound", already_connected=False)
        raise DeadlineExceeded(f"not connected to {peer_id} within {limit} ms", peerId=peer_id, timeout=limit)

    def _targets(self, target: str) -> tuple[str, list[str]]:
        assert self._host is not None
        try:
            if target.startswith("/"):
                peer_id, addresses = parse(target).peer_id, [target]
                if peer_id is None:
                    raise InvalidParams(f'address: "{target}" names no peer; append /p2p/<peer id>', param="address")
            else:
                peer_id = normal_peer_id(target)
                addresses = self._book.addresses(peer_id)
        except AddressError as error:
            raise InvalidParams(f"address: {error}", param="address") from error
        if peer_id == self._host.peer_id:
            raise InvalidParams(f"address: {peer_id} is this node itself", param="address")
        return peer_id, addresses

    async def _first(self, peer_id: str, addresses: list[str]) -> Link:
        """The first of the addresses that connects, tried in turn."""
        assert self._host is not None
        errors: dict[str, str] = {}
        for address in addresses:
            try:
                return await self._host.dial(address, timeout=self._node.dial_timeout / 1000)
            except DialLimit as error:
                raise LimitExceeded(
                    str(error), limit=error.limit, current=error.current, configKey=error.config_key
                ) from error
            except DialError as error:
                self._counters.failed_connections += 1
                errors[address] = str(error)
        words = "; ".join(f"{address}: {error}" for address, error in errors.items())
        raise DialFailed(f"cannot connect to {peer_id}: {words}", peerId=peer_id, errors=errors)

    async def disconnect(self, peer_id: str) -> int:
        """Close every connection to the peer; how many there were. Raises `PeerNotFound`."""
        assert self._host is not None
        peer_id = self._connected_peer(peer_id)
        self._asked.add(peer_id)
        try:
            return await self._host.close_peer(peer_id)
        finally:
            self._asked.discard(peer_id)

    async def ping(self, peer_id: str, timeout: int | None) -> tuple[str, float]:
        """The peer's id and its round trip in milliseconds. Raises `PeerNotFound`, `DeadlineExceeded`, and
        `InvalidState` for a peer that does not answer pings."""
        assert self._host is not None
        peer_id = self._connected_peer(peer_id)
        limit = self._node.request_timeout if timeout is None else timeout
        try:
            with trio.move_on_after(limit / 1000):
                return peer_id, await self._host.ping(peer_id)
        except ProtocolUnsupported as error:
            raise InvalidState(str(error), peerId=peer_id) from error
        except StreamError as error:
            self._connected_peer(peer_id)
            raise InvalidState(f"ping failed: {error}", peerId=peer_id) from error
        raise DeadlineExceeded(f"{peer_id} did not answer within {limit} ms", peerId=peer_id, timeout=limit)

    def _connected_peer(self, text: str) -> str:
        try:
            peer_id = normal_peer_id(text)
        except AddressError as error:
            raise InvalidParams(f"peerId: {error}", param="peerId") from error
        if peer_id not in self._peers:
            raise PeerNotFound(f"not connected to {peer_id}", peerId=peer_id)
        return peer_id


def _peer_of(address: str) -> str | None:
    try:
        return parse(address).peer_id
    except AddressError:
        return None  # it goes through its cycle all the same, and each dial says what is wrong with it
