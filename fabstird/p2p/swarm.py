"""Connections of the node: one task owns each, from its socket to its last event.

libp2p's `Swarm` keeps connections in tasks and tables that nobody empties (LAB.md, traps 1, 3, 4, 5, 6, 8, 9, 13, 17).
This subclass keeps its interface, on which libp2p's protocols stand, and replaces how connections are opened, accepted,
owned and closed. There is no resource manager, auto-connector or pruner in it: `Limits` says what is let in, and who is
dialled or dropped is for the connection manager to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import trio
from libp2p.abc import INetConn, INetStream, INotifee, IPeerStore
from libp2p.io.exceptions import IOException
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm as LibSwarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from fabstird.log import get_logger
from fabstird.p2p import multistream, yamux
from fabstird.p2p.addresses import Address, expand, parse
from fabstird.p2p.dialing import DialError, DialLimit, failure, in_words
from fabstird.p2p.link import GOODBYE, Link
from fabstird.p2p.race import NoneConnected, race
from fabstird.p2p.transport import Listener, Pipe, Traffic, accept, dial, listen
from fabstird.p2p.yamux import Liveness, Silence

log = get_logger("p2p.swarm")

CLOSING = 2.0  # seconds for closing everything when the node stops


@dataclass(slots=True)
class Limits:
    """What is let in. Read at each decision, so a change counts from then on."""

    max: int
    max_per_ip: int
    handshake_timeout: float  # seconds
    liveness: Liveness = field(default_factory=Liveness)


class Gate(Protocol):
    """Says whom to keep out: before the handshake by IP address, after it by peer."""

    def refusal(self, host: str | None, peer_id: str | None) -> str | None: ...


class Observer(Protocol):
    """Told of connections, synchronously and in order; must be quick and must not raise."""

    def connected(self, link: Link) -> None: ...

    def disconnected(self, link: Link) -> None: ...


class _DialLimited(SwarmException):
    """`DialLimit`, for libp2p's own protocols."""


class _Listening:
    """What libp2p's host asks a listener for."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(address.multiaddr for address in expand(self._listener.bound))


class Swarm(LibSwarm):
    """See the module. `serving` runs it; `dial_address` and accepting bring links up, `Link.end` takes them down."""

    def __init__(
        self,
        peer_id: ID,
        peerstore: IPeerStore,
        upgrader: TransportUpgrader,
        limits: Limits,
        observer: Observer,
        gate: Gate | None,
    ) -> None:
        super().__init__(peer_id, peerstore, upgrader, transports=[], connection_config=ConnectionConfig())
        self.notifees.clear()  # the tag store's: ours keeps its own tags
        self.limits = limits
        self.observer = observer
        self._gate = gate
        self._noise = upgrader.security_multistream.transports[NOISE]
        self.traffic = Traffic()
        self.handshakes_failed = 0
        self.refused = 0
        self.parting = "stopped"  # the reason of links that end because the swarm does
        self.stream_errors = 0
        self._nursery: trio.Nursery | None = None
        self._open = 0  # connections on their way or up
        self._dialling: set[trio.CancelScope] = set()  # `nursery.start` keeps a dial in its caller's scope, not in ours
        self._inbound_from: Counter[str] = Counter()
        self._bound: list[Listener] = []
        self.circuits: Callable[[Address], Awaitable[Pipe]] | None = None  # opens those that lead through a relay

    # ----------------------------------------------------------------------------------------------------------------
    # Running

    @asynccontextmanager
    async def serving(self, addresses: list[Address]) -> AsyncIterator[None]:
        """Listen on ``addresses``, all or none, and keep links until the context is left; then every link is gone and
        every socket closed. Raises `ListenError`."""
        self._bound = await self._bind(addresses)
        self.listeners.update({str(listener.bound): _Listening(listener) for listener in self._bound})  # type: ignore[misc]
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self.background_nursery = nursery
                self.event_background_nursery_created.set()
                accepting = trio.CancelScope()
                nursery.start_soon(self._accept, nursery, accepting)
                try:
                    yield
                finally:
                    self._closing = True
                    for scope in self._dialling:
                        scope.cancel()
                    accepting.cancel()
                    with trio.move_on_after(CLOSING, shield=True):
                        await self._close_links(self.parting)
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = self.background_nursery = None
            self.listeners.clear()

    async def _bind(self, addresses: list[Address]) -> list[Listener]:
        bound: list[Listener] = []
        try:
            for address in addresses:
                bound.append(await listen(address))
        except BaseException:
            for listener in bound:
                await trio.aclose_forcefully(listener.sockets)
            raise
        return bound

    async def _accept(self, owner: trio.Nursery, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for listener in self._bound:
                    serve = partial(trio.serve_listeners, handler_nursery=owner)
                    nursery.start_soon(serve, partial(self._inbound, listener), [listener.sockets])

    async def _close_links(self, reason: str) -> None:
        """Those that lead through relays first: they need the others to say goodbye."""
        for relayed in (True, False):
            links = [link for link in self.links() if link.relayed is relayed]
            for link in links:
                link.end(reason)
            for link in links:
                await link.gone.wait()

    @property
    def bound(self) -> list[Listener]:
        return list(self._bound) if self._nursery is not None else []

    def links(self, peer_id: str | None = None) -> list[Link]:
        """Links that are up, oldest first: all, or those of one peer."""
        if peer_id is None:
            conns = [conn for conns in self.connections.values() for conn in conns]
        else:
            conns = self.connections.get(ID.from_base58(peer_id), [])
        return [conn for conn in conns if isinstance(conn, Link) and not conn.is_closed]

    # ----------------------------------------------------------------------------------------------------------------
    # A connection, from its first byte to its last

    async def dial_address(self, address: Address) -> Link:
        """Open a connection to one endpoint (kind ip4 or ip6, with peer id) and return once it is up.

        Raises `DialError` in words; the caller brings the deadline. Cancelled at any moment, it leaves nothing behind.
        """
        if address.peer_id is None:
            raise DialError(f"{address} names no peer")
        if address.peer_id == self.self_id.to_base58():
            raise DialError("that is this node's own peer id")
        if self._nursery is None or self._closing:
            raise DialError("the node is not running", "canceled")
        if (refusal := self._refusal(address.host, address.peer_id)) is not None:
            raise DialError(refusal, "forbidden")
        if self._open >= self.limits.max:
            raise DialLimit("connections.max", self.limits.max, self._open)
        self._open += 1  # here, so that dials which begin together are counted; `_outbound` takes it back
        scope = trio.CancelScope()
        self._dialling.add(scope)
        try:
            with scope:
                link: Link = await self._nursery.start(self._outbound, address)
                return link
        finally:
            self._dialling.discard(scope)
        raise DialError("the node is stopping", "canceled")

    async def _outbound(self, address: Address, *, task_status: trio.TaskStatus[Link]) -> None:
        """Owner of an outbound connection; `nursery.start` ties it to the dial until the link is up."""
        link: Link | None = None
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                if address.relay and self.circuits is not None:
                    pipe = await self.circuits(address)
                else:
                    pipe = await dial(address, nursery, self.traffic)
                try:
                    link = await self._upgrade(pipe, nursery, address)
                    link.handshake = trio.current_time() - began
                    await self._live(link, nursery, task_status)
                finally:
                    await pipe.close()
                    nursery.cancel_scope.cancel()
        except Exception as error:
            if link is None:
                raise failure(error) from error
            log.exception("connection failed", address=str(address))
        finally:
            self._open -= 1
            if link is not None:
                link.gone.set()  # last, so that who waited for it finds its place free

    async def _inbound(self, listener: Listener, stream: trio.SocketStream) -> None:
        try:
            remote = listener.remote_of(stream)
        except OSError:
            await trio.aclose_forcefully(stream)  # gone between accept and here
            return

        async def begin(nursery: trio.Nursery) -> Pipe:
            return await accept(stream, remote, nursery, self.traffic)

        await self._admit(remote, begin, partial(trio.aclose_forcefully, stream))

    async def accept_circuit(self, pipe: Pipe) -> None:
        """Own an inbound connection that a relay brought, apart from the link to the relay; returns when it is gone."""
        done = trio.Event()

        async def begin(nursery: trio.Nursery) -> Pipe:
            return pipe

        async def own() -> None:
            try:
                await self._admit(pipe.remote, begin, pipe.close)
            finally:
                done.set()

        if self._nursery is None or self._closing:
            await pipe.close()
            return
        self._nursery.start_soon(own)
        await done.wait()

    async def _admit(
        self,
        remote: Address,
        begin: Callable[[trio.Nursery], Awaitable[Pipe]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Owner of an inbound connection. A newcomer over a limit is turned away before it costs a handshake."""
        over = self._open >= self.limits.max or self._inbound_from[remote.host] >= self.limits.max_per_ip
        if over or self._refusal(remote.host, None) is not None:
            self.refused += 1
            log.debug("connection refused", address=str(remote), connections=self._open)
            await close()
            return
        self._inbound_from[remote.host] += 1
        self._open += 1
        link: Link | None = None
        began = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                try:
                    with trio.fail_after(self.limits.handshake_timeout):
                        pipe = await begin(nursery)
                        link = await self._upgrade(pipe, nursery, remote)
                        link.handshake = trio.current_time() - began
                    await self._live(link, nursery, trio.TASK_STATUS_IGNORED)
                finally:
                    await close()
                    nursery.cancel_scope.cancel()
        except Exception as error:
            if link is not None:
                log.exception("connection failed", address=str(remote))
            else:
                self.handshakes_failed += 1
                log.debug("handshake failed", address=str(remote), error=in_words(error))
        finally:
            self._open -= 1
            self._inbound_from[remote.host] -= 1
            if not self._inbound_from[remote.host]:
                del self._inbound_from[remote.host]
            if link is not None:
                link.gone.set()

    def _refusal(self, host: str | None, peer_id: str | None) -> str | None:
        return self._gate.refusal(host, peer_id) if self._gate is not None else None

    async def _upgrade(self, pipe: Pipe, nursery: trio.Nursery, address: Address) -> Link:
        """Noise, then yamux, whose task runs in ``nursery``. A dial must reach the peer it was meant for."""
        expected = ID.from_base58(address.peer_id) if pipe.is_initiator and address.peer_id else None
        if expected is not None:
            pipe.unread(await multistream.ask(pipe.read, pipe.write, NOISE))
            secured = await self._noise.secure_outbound(pipe, expected)
        else:
            _, rest = await multistream.answer(pipe.read, pipe.write, (NOISE,))
            pipe.unread(rest)
            secured = await self._noise.secure_inbound(pipe)
        remote = secured.get_remote_peer()
        if remote == self.self_id:
            raise DialError("that is this node's own peer id")
        if (refusal := self._refusal(None, remote.to_base58())) is not None:
            raise DialError(refusal, "forbidden")
        muxed = await yamux.upgrade(secured, self.limits.liveness)
        link = Link(muxed, self, pipe, address)
        nursery.start_soon(self._run_muxer, link)
        await muxed.event_started.wait()
        link.event_started.set()
        return link

    async def _live(self, link: Link, nursery: trio.Nursery, task_status: trio.TaskStatus[Link]) -> None:
        """The link's life. Between its entry here and ``started`` nothing waits, so no dial is cancelled in between and
        `Observer.connected` and `Observer.disconnected` come in pairs (trap 17)."""
        peer = link.muxed_conn.peer_id
        self.connections.setdefault(peer, []).append(link)
        self.observer.connected(link)
        task_status.started(link)
        try:
            await self.notify_connected(link)
            link.serve_streams(nursery)
            await link.event_closed.wait()
            with trio.move_on_after(GOODBYE, shield=True):
                await self._part(link)
        except trio.Cancelled:
            link.end(self.parting)  # only the end of the swarm cancels an owner
            raise
        finally:
            with trio.CancelScope(shield=True):
                await link.pipe.close()
                link.end("error")  # where nothing above has named a reason
                self.remove_conn(link)
                self.observer.disconnected(link)
                await self.notify_disconnected(link)

    async def _part(self, link: Link) -> None:
        """End a link in order: our goodbye, our end of the bytes, and then the peer's. A socket that is closed while
        bytes lie in it unread is reset, and the goodbye is lost with it."""
        if not link.muxed_conn.ended.is_set():
            await link.muxed_conn.say_goodbye()
            await link.pipe.finish()
            await link.muxed_conn.ended.wait()

    async def _run_muxer(self, link: Link) -> None:
        """The muxer, as long as it lives; however it ends, that ends the link and nothing else."""
        reason = "closed_by_peer"
        try:
            await link.muxed_conn.start()
        except IOException:
            pass  # how connections end
        except Silence:
            reason = "dead"
        except Exception as error:  # noqa: BLE001 - a peer chooses what libp2p raises
            reason = "error"
            log.debug("link failed", peer=link.peer_id, error=in_words(error))
        link.end(link.pipe.ended or reason)

    # ----------------------------------------------------------------------------------------------------------------
    # libp2p's interface, where its own does what the module says it must not

    async def new_stream(self, peer_id: ID) -> INetStream:
        links = self.links(peer_id.to_base58()) or await self.dial_peer(peer_id)
        for link in links:
            return await link.new_stream()
        raise SwarmException(f"not connected to {peer_id}")

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """For libp2p's own protocols: a link that is up, or a race of the addresses that the peer store knows."""
        links: list[INetConn] = list(self.links(peer_id.to_base58()))
        if links:
            return links
        try:
            known = self.peerstore.addrs(peer_id)
        except PeerStoreError as error:
            raise SwarmException(f"no address of {peer_id} is known") from error
        try:
            link: Link = await race(
                [str(multiaddr) for multiaddr in known],
                lambda text: self._dial_text(text, peer_id),
                expected=SwarmException,
                final=_DialLimited,
                spare=lambda link: link.end("duplicate"),
            )
        except NoneConnected as error:
            raise SwarmException(f"no address of {peer_id} could be dialled: {error}") from error
        return [link]

    async def dial_addr(self, addr: Multiaddr, peer_id: ID, source: tuple[str, int] | None = None) -> INetConn:
        return await self._dial_text(str(addr), peer_id)

    async def _dial_text(self, text: str, peer_id: ID) -> Link:
        try:
            address = parse(text.split("/p2p/")[0] + f"/p2p/{peer_id}")
            with trio.fail_after(self.limits.handshake_timeout):
                return await self.dial_address(address)
        except DialLimit as error:
            raise _DialLimited(str(error)) from error
        except (DialError, ValueError, trio.TooSlowError) as error:
            raise SwarmException(str(error) or "timed out") from error

    async def close_peer(self, peer_id: ID) -> None:
        for link in self.links(peer_id.to_base58()):
            await link.close()

    def remove_conn(self, swarm_conn: SwarmConn) -> None:
        peer = swarm_conn.muxed_conn.peer_id
        rest = [conn for conn in self.connections.get(peer, []) if conn is not swarm_conn]
        if rest:
            self.connections[peer] = rest
            return
        self.connections.pop(peer, None)
        try:
            self.peerstore.clear_peerdata(peer)  # it would keep every peer it ever met
        except PeerStoreError:
            pass  # nothing was stored of it

    async def _notify(self, method: str, *args: Any) -> None:
        """In the caller's task: a nursery for each of a connection's dozen streams costs more than its notifees."""
        for notifee in list(self.notifees):
            await self._notify_one(notifee, method, *args)

    async def _notify_one(self, notifee: INotifee, method: str, *args: Any) -> None:
        try:
            await getattr(notifee, method)(self, *args)
        except Exception:
            log.exception("a notifee failed", notifee=type(notifee).__name__, method=method)

    async def notify_disconnected(self, conn: INetConn) -> None:
        await self._notify("disconnected", conn)
