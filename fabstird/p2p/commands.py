"""What users ask for by name: connect, disconnect and ping a peer; tag, protect, ban and keep; explain.

Parameters are texts; every one that is wrong is an `InvalidParams` that names it. Connections are None while the node
is not started: what concerns only the book works all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from fabstir_client.errors import DeadlineExceeded, DialFailed, InvalidParams, InvalidState, LimitExceeded, PeerNotFound
from fabstir_client.types import (
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
from fabstird.p2p.addresses import AddressError, normal_peer_id, parse
from fabstird.p2p.bans import Ban, network
from fabstird.p2p.book import Book, BookFull
from fabstird.p2p.connections import Connections
from fabstird.p2p.explain import explain
from fabstird.p2p.history import History
from fabstird.p2p.host import DialError, DialLimit, Link, ProtocolUnsupported, StreamError
from fabstird.p2p.race import NoneConnected, race


class Commands:
    """``own_id`` is this node's peer id."""

    def __init__(self, own_id: str, book: Book, history: History, connections: Connections | None) -> None:
        self._own_id = own_id
        self._book = book
        self._history = history
        self._connections = connections

    # ----------------------------------------------------------------------------------------------------------------
    # A connection; the caller has seen to it that the node is started

    async def connect(self, target: str, timeout: int | None) -> ConnectResult:
        """Connect to a multiaddr with ``/p2p/`` or to a peer id whose addresses are known. Any back-off is bypassed; a
        dial that is under way is joined.

        ``timeout`` (ms) is the call's own deadline. Raises `InvalidParams`, `PeerNotFound`, `LimitExceeded`,
        `DeadlineExceeded`, or `DialFailed` with the error of each address in words.
        """
        connections = self._running
        peer_id, addresses = self._targets(target)
        for link in connections.links(peer_id):
            return ConnectResult(
                peer_id=peer_id, address=link.address, direction=link.direction_text, already_connected=True
            )
        if not addresses:
            raise PeerNotFound(f"no address of {peer_id} is known", peerId=peer_id)
        limit = connections.node.request_timeout if timeout is None else timeout
        with trio.move_on_after(limit / 1000):
            link = await self._first(peer_id, addresses)
            return ConnectResult(peer_id=peer_id, address=link.address, direction="outbound", already_connected=False)
        raise DeadlineExceeded(f"not connected to {peer_id} within {limit} ms", peerId=peer_id, timeout=limit)

    def _targets(self, target: str) -> tuple[str, list[str]]:
        if target.startswith("/"):
            peer_id, addresses = _address("address", target), [target]
        else:
            peer_id = _peer_id("address", target)
            heard = self._running.nearby(peer_id)
            addresses = list(dict.fromkeys([*(heard.addresses if heard else []), *self._book.addresses(peer_id)]))
        if peer_id == self._own_id:
            raise InvalidParams(f"address: {peer_id} is this node itself", param="address")
        return peer_id, addresses

    async def _first(self, peer_id: str, addresses: list[str]) -> Link:
        """The first of the addresses that connects; they are raced."""
        try:
            return await race(
                addresses,
                lambda address: self._running.dial(address, peer_id),
                expected=DialError,
                final=DialLimit,
                spare=lambda link: link.end("duplicate"),
            )
        except NoneConnected as failed:
            if isinstance(limit := failed.last, DialLimit):
                raise LimitExceeded(
                    str(limit), limit=limit.limit, current=limit.current, configKey=limit.config_key
                ) from failed
            errors = {address: str(error) for address, error in failed.errors.items()}
            raise DialFailed(f"cannot connect to {peer_id}: {failed}", peerId=peer_id, errors=errors) from failed

    async def disconnect(self, peer: str) -> DisconnectResult:
        """Raises `PeerNotFound`."""
        peer_id = self._connected(peer)
        return DisconnectResult(peer_id=peer_id, closed=await self._running.disconnect(peer_id))

    async def ping(self, peer: str, timeout: int | None) -> PingResult:
        """Raises `PeerNotFound`, `DeadlineExceeded`, and `InvalidState` for a peer that does not answer pings."""
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

    def peer_id(self, text: str) -> str:
        """The peer id in its usual form. Raises `InvalidParams`."""
        return _peer_id("peerId", text)

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
        """A peer id, an IP address or a network, for ``duration`` ms; its connections are closed at once."""
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

    def keep(self, address: str) -> KeepResult:
        """Stay connected to an address with ``/p2p/``, across restarts."""
        peer_id = _address("address", address)
        if peer_id == self._own_id:
            raise InvalidParams(f"address: {peer_id} is this node itself", param="address")
        _fill(lambda: self._book.keep(address))
        self._history.note(peer_id, "kept", address=address)
        if self._connections is not None:
            self._connections.keep(address)
        return KeepResult(peer_id=peer_id, address=address, kept=True)

    def forget(self, target: str) -> ForgetResult:
        """No longer keep an address, or any address of a peer. A connection stays."""
        if target.startswith("/"):
            found = [target] if target in self._book.kept else []
        else:
            peer_id = _peer_id("address", target)
            found = [address for address in self._book.kept if address.endswith(f"/p2p/{peer_id}")]
        for address in found:
            self._book.forget(address)
            self._history.note(_address("address", address), "forgotten", address=address)
            if self._connections is not None:
                self._connections.forget(address)
        return ForgetResult(addresses=found)

    def explain(self, target: str, state: str) -> Explanation:
        """Everything that is known of a peer id, or of an address; ``state`` is the node's."""
        peer_id: str | None
        if target.startswith("/"):
            try:
                peer_id = parse(target).peer_id
            except AddressError:
                peer_id = None  # a bootstrap node may be undecodable; what happened to it is known by its text
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


def _address(param: str, text: str) -> str:
    """The peer that an address names."""
    try:
        peer_id = parse(text).peer_id
    except AddressError as error:
        raise InvalidParams(f"{param}: {error}", param=param) from error
    if peer_id is None:
        raise InvalidParams(f'{param}: "{text}" names no peer; append /p2p/<peer id>', param=param)
    return peer_id


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
