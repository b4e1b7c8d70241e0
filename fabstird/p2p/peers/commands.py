"""The API for peers: connect, disconnect and ping; tag, protect, ban and keep; explain.

Parameters are texts; a wrong one raises `InvalidParams`, which names it. While the node is not started there are no
connections, but commands that concern only the book work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from fabstir_client.api.errors import (
    DeadlineExceeded,
    DialFailed,
    InvalidParams,
    InvalidState,
    LimitExceeded,
    PeerNotFound,
)
from fabstir_client.api.types import (
    BanRecord,
    BanResult,
    ConnectResult,
    DisconnectResult,
    Explanation,
    ForgetResult,
    KeepResult,
    PeerTags,
    PingResult,
    UnbanResult,
)
from fabstir_client.api.ui import DialRecord
from fabstird.p2p.host.host import DialLimit, Link, ProtocolUnsupported, StreamError
from fabstird.p2p.net.race import NoneConnected
from fabstird.p2p.peers.bans import Ban, network
from fabstird.p2p.peers.book import Book, BookFull
from fabstird.p2p.peers.explain import dial_records, explain
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.wire.addresses import AddressError, is_address, normal_peer_id, parse


class Commands:
    """The commands. ``own_id`` is this node's peer id."""

    def __init__(self, own_id: str, book: Book, history: History) -> None:
        self._own_id = own_id
        self._book = book
        self._history = history
        self._connections: Connections | None = None

    def attach(self, connections: Connections) -> None:
        """A run of the node has begun."""
        self._connections = connections

    def detach(self) -> None:
        """The run has ended."""
        self._connections = None

    # ----------------------------------------------------------------------------------------------------------------
    # Connections; the caller has checked that the node is started

    async def connect(self, target: str, timeout: int | None, param: str = "address") -> ConnectResult:
        """Connect to a multiaddr with ``/p2p/``, or to a peer id whose addresses are known. A back-off is bypassed, and
        a dial under way is joined. A direct address is dialled even if the peer is connected through a relay.

        Args:
            target: A multiaddr or a peer id.
            timeout: The deadline of the call, in ms.
            param: What `InvalidParams` names: the parameter that ``target`` came in.

        Raises:
            InvalidParams: ``target`` is neither.
            PeerNotFound: No address of the peer is known.
            LimitExceeded: A limit of this node forbids the dial.
            DeadlineExceeded: ``timeout`` has passed.
            DialFailed: No address connects; it has the error of each.
        """
        connections = self._running
        peer_id, addresses = self._targets(target, param)
        # A relayed link does not satisfy a caller that asks for a direct one
        direct = is_address(target) and parse(target).relay is None
        for link in sorted(connections.links(peer_id), key=lambda link: link.relayed):
            if not (direct and link.relayed):
                return ConnectResult(
                    peer_id=peer_id, address=link.address, direction=link.direction, already_connected=True
                )
        if not addresses:
            raise PeerNotFound(f"no address of {peer_id} is known", peerId=peer_id)
        limit = connections.node.request_timeout if timeout is None else timeout
        with trio.move_on_after(limit / 1000):
            link = await self._first(peer_id, addresses)
            return ConnectResult(peer_id=peer_id, address=link.address, direction="outbound", already_connected=False)
        raise DeadlineExceeded(f"not connected to {peer_id} within {limit} ms", peerId=peer_id, timeout=limit)

    def _targets(self, target: str, param: str) -> tuple[str, list[str]]:
        if is_address(target):
            peer_id, address = _address(param, target)
            addresses = [address]
        else:
            peer_id = _peer_id(param, target)
            heard = self._running.nearby.find(peer_id)
            addresses = list(dict.fromkeys([*(heard.addresses if heard else []), *self._book.addresses(peer_id)]))
        if peer_id == self._own_id:
            raise InvalidParams(f"{param}: {peer_id} is this node itself", param=param)
        return peer_id, addresses

    async def _first(self, peer_id: str, addresses: list[str]) -> Link:
        """Race the addresses; returns the link of the first that connects."""
        try:
            return await self._running.dial(peer_id, addresses)
        except NoneConnected as failed:
            if isinstance(limit := failed.last, DialLimit):
                raise LimitExceeded(
                    str(limit), limit=limit.limit, current=limit.current, configKey=limit.config_key
                ) from failed
            errors = {address: str(error) for address, error in failed.errors.items()}
            raise DialFailed(f"cannot connect to {peer_id}: {failed}", peerId=peer_id, errors=errors) from failed

    async def disconnect(self, peer: str) -> DisconnectResult:
        """Close all connections to a peer. Raises `PeerNotFound`."""
        peer_id = self._connected(peer)
        return DisconnectResult(peer_id=peer_id, closed=await self._running.disconnect(peer_id))

    async def ping(self, peer: str, timeout: int | None) -> PingResult:
        """Ping a peer. Raises `PeerNotFound`, `DeadlineExceeded`, and `InvalidState` for a peer that does not answer
        pings."""
        peer_id = self._connected(peer)
        limit = self._running.node.request_timeout if timeout is None else timeout
        try:
            with trio.move_on_after(limit / 1000):
                return PingResult(peer_id=peer_id, rtt=await self._running.ping(peer_id))
        except ProtocolUnsupported as error:
            raise InvalidState(str(error), peerId=peer_id) from error
        except StreamError as error:
            self._connected(peer_id)
            raise InvalidState(f"ping failed: {error}", peerId=peer_id) from error
        raise DeadlineExceeded(f"{peer_id} did not answer within {limit} ms", peerId=peer_id, timeout=limit)

    def peer_id(self, text: str, param: str = "peerId") -> str:
        """A peer id in its canonical form. Raises `InvalidParams`, which names ``param``."""
        return _peer_id(param, text)

    @property
    def _running(self) -> Connections:
        assert self._connections is not None, "the caller sees to it that the node is started"
        return self._connections

    def _connected(self, text: str) -> str:
        peer_id = _peer_id("peerId", text)
        if not self._running.links(peer_id):
            raise PeerNotFound(f"not connected to {peer_id}", peerId=peer_id)
        return peer_id

    # ----------------------------------------------------------------------------------------------------------------
    # Tags and protection

    def tag(self, peer: str, tag: str, value: int) -> PeerTags:
        peer_id = _peer_id("peerId", peer)
        _fill(lambda: self._book.tag(peer_id, tag, value))
        return self._tags(peer_id)

    def untag(self, peer: str, tag: str) -> PeerTags:
        peer_id = _peer_id("peerId", peer)
        self._book.untag(peer_id, tag)
        return self._tags(peer_id)

    def protect(self, peer: str) -> PeerTags:
        peer_id = _peer_id("peerId", peer)
        _fill(lambda: self._book.protect(peer_id))
        return self._tags(peer_id)

    def unprotect(self, peer: str) -> PeerTags:
        peer_id = _peer_id("peerId", peer)
        self._book.unprotect(peer_id)
        return self._tags(peer_id)

    def _tags(self, peer_id: str) -> PeerTags:
        return PeerTags(peer_id, self._book.tags(peer_id), self._book.is_protected(peer_id))

    # ----------------------------------------------------------------------------------------------------------------
    # Bans and kept addresses

    def ban(self, target: str, duration: int | None, reason: str | None) -> BanResult:
        """Ban a peer id, an IP address or a network for ``duration`` ms; its connections are closed at once."""
        if duration is not None and duration <= 0:
            raise InvalidParams(
                f"duration: must be a positive number of milliseconds, not {duration}", param="duration"
            )
        target = _ban_target(target)
        if target == self._own_id:
            raise InvalidParams(f"target: {target} is this node itself", param="target")
        ban = self._book.bans.add(target, duration, reason)
        self._book.changed = True
        if network(target) is None:
            self._history.note(target, "banned", detail=str(ban))
        closed = self._connections.enforce(ban) if self._connections else 0
        return BanResult(ban=ban_record(ban), closed=closed)

    def unban(self, target: str) -> UnbanResult:
        target = _ban_target(target)
        unbanned = self._book.bans.remove(target)
        self._book.changed = True
        if unbanned and network(target) is None:
            self._history.note(target, "unbanned")
        return UnbanResult(target=target, unbanned=unbanned)

    def bans(self) -> list[BanRecord]:
        return [ban_record(ban) for ban in self._book.bans.all()]

    def keep(self, address: str, holder: object | None = None) -> KeepResult:
        """Stay connected to an address with ``/p2p/``, across restarts, or as long as ``holder`` lives."""
        peer_id, address = _address("address", address)
        if peer_id == self._own_id:
            raise InvalidParams(f"address: {peer_id} is this node itself", param="address")
        if holder is None:
            _fill(lambda: self._book.keep(address))
        else:
            _fill(lambda: self._book.lease(address, holder))
        self._history.note(peer_id, "kept", address=address)
        if self._connections is not None:
            self._connections.keep(address)
        return KeepResult(peer_id=peer_id, address=address, kept=True, lease=None if holder is None else "connection")

    def forget(self, target: str, holder: object | None = None) -> ForgetResult:
        """Stop keeping an address, or every address of a peer, both for good and for ``holder``. Other holders' leases
        and existing connections stay."""
        if is_address(target):
            found = list(dict.fromkeys((target, _address("address", target)[1])))
        else:
            peer_id = _peer_id("address", target)
            found = [address for address in self._book.kept if address.endswith(f"/p2p/{peer_id}")]
        # Both calls are needed: an address may be kept for good and leased at once
        ended = [one for one in found if self._book.forget(one) | self._book.end_lease(one, holder)]
        self._let_go(ended)
        return ForgetResult(addresses=ended)

    def end_leases(self, holder: object) -> None:
        """End all leases of ``holder``; addresses that only it kept are dropped."""
        held = self._book.leased(holder)
        for address in held:
            self._book.end_lease(address, holder)
        self._let_go(held)

    def _let_go(self, addresses: Iterable[str]) -> None:
        """Stop dialling those of the addresses that nobody keeps any more."""
        for address in set(addresses).difference(self._book.kept):
            self._history.note(_address("address", address)[0], "forgotten", address=address)
            if self._connections is not None:
                self._connections.forget(address)

    def dials(self) -> list[DialRecord]:
        """Every address that is dialled repeatedly, with the state of its cycle."""
        return dial_records(self._book, self._history, self._connections) if self._connections is not None else []

    def explain(self, target: str, state: str) -> Explanation:
        """Everything known about a peer id or an address. ``state`` is the node's."""
        peer_id: str | None
        if is_address(target):
            try:
                peer_id = parse(target).peer_id
            except AddressError:
                peer_id = None  # a bootstrap address may be undecodable; its history is kept under its text
        else:
            peer_id = _peer_id("target", target)
        return explain(peer_id, target, state, self._own_id, self._book, self._history, self._connections)


def ban_record(ban: Ban) -> BanRecord:
    return BanRecord(target=ban.target, since=ban.since, until=ban.until, reason=ban.reason)


def _peer_id(param: str, text: str) -> str:
    try:
        return normal_peer_id(text)
    except AddressError as error:
        raise InvalidParams(f"{param}: {error}", param=param) from error


def _address(param: str, text: str) -> tuple[str, str]:
    """The peer that an address names, and the address in its canonical form."""
    try:
        address = parse(text)
    except AddressError as error:
        raise InvalidParams(f"{param}: {error}", param=param) from error
    if address.peer_id is None:
        raise InvalidParams(f'{param}: "{text}" names no peer; append /p2p/<peer id>', param=param)
    return address.peer_id, str(address)


def _ban_target(text: str) -> str:
    cidr = network(text)
    if cidr is not None:
        return cidr
    try:
        return normal_peer_id(text)
    except AddressError as error:
        raise InvalidParams(f'target: "{text}" is no peer id, IP address or network', param="target") from error


def _fill(change: Callable[[], None]) -> None:
    try:
        change()
    except BookFull as error:
        raise LimitExceeded(str(error), limit=error.limit, current=error.limit, configKey=None) from error
