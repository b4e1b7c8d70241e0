"""The one wrapper around libp2p: a host that is opened, dials, is dialled, and closes leaving nothing behind.

Everything else in the daemon deals in peer ids and multiaddrs as text, `Link` and `DialError`. A host is used once:
each start of the node opens a new one with the same key (LAB.md, recipe).
"""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PING_LENGTH, PingService
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import IOException
from libp2p.io.utils import read_exactly
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError, ProtocolNotSupportedError
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr

from fabstird.log import get_logger
from fabstird.metrics import Totals
from fabstird.p2p import circuit, identify, multistream
from fabstird.p2p.addresses import Address, AddressError, expand, parse
from fabstird.p2p.dialing import DialError, DialLimit
from fabstird.p2p.identify import PeerInfo
from fabstird.p2p.libhost import NEGOTIATION, LibHost, upgrader
from fabstird.p2p.link import GOODBYE, Link, muxed
from fabstird.p2p.race import NoneConnected, in_order, race
from fabstird.p2p.resolve import ResolveError, resolve
from fabstird.p2p.swarm import Gate, Limits, Swarm
from fabstird.p2p.transport import ListenError, Pipe
from fabstird.p2p.yamux import Liveness

log = get_logger("p2p.host")

LINGER = 10.0  # seconds that a peer has to end its side of a stream, once we have what we wanted
MAX_OBSERVED = 16  # observed addresses that are shown
INTERFACES_KEPT = 1.0  # seconds that the addresses of interfaces count as known: asking costs 0.1 ms


@dataclass(frozen=True, slots=True)
class HostSettings:
    """``seed`` is the Ed25519 private key; addresses are multiaddr texts."""

    seed: bytes
    agent: str
    limits: Limits
    listen: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()


class HostObserver(Protocol):
    """Told what happens to connections: synchronously, in order, and it must neither block nor raise."""

    def connected(self, link: Link) -> None: ...

    def disconnected(self, link: Link) -> None: ...

    def identified(self, link: Link, info: PeerInfo) -> None: ...


class StreamError(Exception):
    """A stream to a peer could not be opened or used; the message says why."""


class ProtocolUnsupported(StreamError):
    """The peer does not speak the protocol."""


class Host:
    """A running host; made by `Host.open` only."""

    def __init__(self, settings: HostSettings, observer: HostObserver, gate: Gate | None = None) -> None:
        key_pair = create_new_key_pair(settings.seed)
        peer_id = ID.from_pubkey(key_pair.public_key)
        self.peer_id = peer_id.to_base58()
        self.observer = observer
        self._settings = settings
        self._infos: dict[str, PeerInfo] = {}
        self._identify_sent = self._identify_received = self._identify_pushed = 0
        self._tasks: trio.Nursery | None = None
        self._listening: tuple[list[Address], float, list[str]] = [], 0, []
        self._changed = -math.inf  # when peers were last told that something about this node is new

        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        self.swarm = Swarm(peer_id, peerstore, upgrader(key_pair), settings.limits, self, gate)
        self.swarm.circuits = self._connect_by_relay
        handlers: OrderedDict[TProtocol, StreamHandlerFn] = OrderedDict()
        announced = [_announced(text).multiaddr for text in settings.announce] or None
        self._host = LibHost(
            self.swarm,
            default_protocols=OrderedDict([(identify.ID, _unset)]),
            announce_addrs=announced,
            disable_identify_address_discovery=True,
        )
        handlers[identify.ID] = identify.answer(self._host, settings.agent, self._answered)
        handlers[identify.PUSH] = identify.accept_push(self._learn)
        handlers[PING] = PingService(self._host).handle_ping
        for protocol, handler in handlers.items():
            self._host.set_stream_handler(protocol, handler)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: HostSettings, observer: HostObserver, gate: Gate | None = None
    ) -> AsyncIterator[Host]:
        """Listen, and keep connections until the context is left; then all of them are closed, concurrently, shielded
        and bounded, before it returns. Raises `ListenError`: all addresses are listened on, or none."""
        wanted = [_listen_address(text) for text in settings.listen]
        host = cls(settings, observer, gate)
        async with host.swarm.serving(wanted), trio.open_nursery() as tasks:
            host._tasks = tasks
            try:
                yield host
            finally:
                host._tasks = None
                tasks.cancel_scope.cancel()

    # ----------------------------------------------------------------------------------------------------------------
    # What it is

    def listen_addresses(self) -> list[str]:
        """Real interface addresses and ports, with ``/p2p/``; what the kernel said at most `INTERFACES_KEPT` ago."""
        bound = [listener.bound for listener in self.swarm.bound]
        known, until, found = self._listening
        if bound != known or trio.current_time() > until:
            found = [str(replace(address, peer_id=self.peer_id)) for one in bound for address in expand(one)]
            self._listening = bound, trio.current_time() + INTERFACES_KEPT, found
        return found.copy()

    def announced_addresses(self) -> list[str]:
        """What identify tells other peers, with ``/p2p/``."""
        own = self.swarm.bound or self._settings.announce
        return [str(address) for address in self._host.get_addrs()] if own else self.relay_addresses()

    def relay_addresses(self) -> list[str]:
        """Those of the announced ones that lead through a relay."""
        return [str(address) for address in self._host.circuits]

    def set_relay_addresses(self, addresses: Sequence[str]) -> None:
        """From now on these lead to us through relays; with ``/p2p/``."""
        self._host.circuits = tuple(Multiaddr(address) for address in addresses)
        self.tell_peers()

    def observed_addresses(self) -> list[str]:
        """What connected peers say they see us as, each once."""
        seen = [info.observed for info in self._infos.values() if info.observed]
        return [f"{address}/p2p/{self.peer_id}" for address in dict.fromkeys(seen)][:MAX_OBSERVED]

    @property
    def announces_given(self) -> bool:
        """The operator has said where this node can be reached."""
        return bool(self._settings.announce)

    def protocols(self) -> list[str]:
        """Protocols that this node answers."""
        return [str(protocol) for protocol in self._host.get_mux().get_protocols() if protocol]

    def links(self, peer_id: str | None = None) -> list[Link]:
        """Connections that are up, oldest first: all, or those of one peer."""
        return self.swarm.links(peer_id)

    def totals(self) -> Totals:
        """What this host has counted since it was opened."""
        swarm = self.swarm
        return Totals(
            handshakes_failed=swarm.handshakes_failed,
            refused_connections=swarm.refused,
            stream_errors=swarm.stream_errors,
            bytes_received=swarm.traffic.received,
            bytes_sent=swarm.traffic.sent,
            identify_sent=self._identify_sent,
            identify_received=self._identify_received,
            identify_pushes_received=self._identify_pushed,
        )

    def set_limits(self, limits: Limits) -> None:
        """Limits for connections that come from now on."""
        self.swarm.limits = limits

    def part_as(self, reason: str) -> None:
        """The reason that links give which end with this host."""
        self.swarm.parting = reason

    def info(self, peer_id: str) -> PeerInfo | None:
        """What identify told of a connected peer; None before it has."""
        return self._infos.get(peer_id)

    # ----------------------------------------------------------------------------------------------------------------
    # What it does

    async def dial(self, text: str, *, timeout: float) -> Link:
        """Dial a multiaddr with ``/p2p/`` (or a ``/dnsaddr``); names are resolved first and their addresses raced.
        ``timeout`` (seconds) bounds the whole. Raises `DialError` in words."""
        try:
            with trio.fail_after(timeout):
                return await self._dial(parse(text))
        except AddressError as error:
            raise DialError(str(error), "bad address") from error
        except ResolveError as error:
            raise DialError(str(error), "no name") from error
        except trio.TooSlowError as error:
            raise DialError(f"timed out after {timeout * 1000:.0f} ms", "deadline") from error

    async def _connect_by_relay(self, address: Address) -> Pipe:
        """A connection to a peer by way of a relay, to which we connect first where we are not."""
        assert address.relay is not None
        links = [link for link in self.links(address.relay) if not link.relayed]
        relay = links[0] if links else await self._dial(address.at_relay)
        return await circuit.connect(relay, address)

    async def _dial(self, address: Address) -> Link:
        if address.relay:
            return await self.swarm.dial_address(address)
        if address.kind in ("ip4", "ip6"):
            return await self.swarm.dial_address(address)
        try:
            return await race(
                in_order(await resolve(address)),
                self.swarm.dial_address,
                expected=DialError,
                final=DialLimit,
                spare=lambda link: link.end("duplicate"),
            )
        except NoneConnected as error:
            last = error.last
            assert isinstance(last, DialError)
            raise last if isinstance(last, DialLimit) else DialError(str(error), last.kind) from error

    def tell_peers(self) -> None:
        """What this node answers has changed: tell the connected peers that want to know (identify push)."""
        self._changed = trio.current_time()
        if self._tasks is not None:
            for peer_id in self._infos:
                for link in self.links(peer_id)[-1:]:
                    self._tasks.start_soon(self._push, link)

    async def _push(self, link: Link) -> None:
        info = self._infos.get(link.peer_id)
        if info is None or identify.PUSH not in info.protocols:
            return
        try:
            with trio.fail_after(identify.DEADLINE):
                async with self._stream_on(link, identify.PUSH) as stream:
                    await identify.push(stream, self._host, self._settings.agent)
        except (StreamError, trio.TooSlowError) as error:
            log.debug("identify push failed", peer=link.peer_id, error=str(error) or "timed out")

    async def close_peer(self, peer_id: str, reason: str = "closed") -> int:
        """Close every connection to the peer, concurrently; returns how many there were."""
        links = self.links(peer_id)
        for link in links:
            link.end(reason)
        for link in links:
            await link.gone.wait()
        return len(links)

    async def ping(self, peer_id: str) -> float:
        """Round trip in milliseconds. Raises `StreamError`; the caller brings the deadline."""
        payload = os.urandom(PING_LENGTH)
        async with self.stream(peer_id, PING) as stream:
            started = time.perf_counter()
            await stream.write(payload)
            echoed = await read_exactly(stream, PING_LENGTH)
            elapsed = time.perf_counter() - started
        if echoed != payload:
            raise StreamError(f"{peer_id} answered the ping with other bytes")
        return elapsed * 1000

    def set_stream_handler(self, protocol: str, handler: Callable[[INetStream], Awaitable[None]]) -> None:
        """Answer a protocol. An exception that leaves ``handler`` resets that stream and is counted, nothing else."""
        self._host.set_stream_handler(TProtocol(protocol), handler)

    def remove_stream_handler(self, protocol: str) -> None:
        """Answer a protocol no longer; streams that are open go on."""
        self._host.remove_stream_handler(TProtocol(protocol))

    @asynccontextmanager
    async def stream(self, peer_id: str, protocol: str) -> AsyncIterator[NetStream]:
        """A stream to a connected peer, agreed on ``protocol``. Closed on leaving, reset on any error.

        Raises `StreamError`, also for what libp2p raises inside the block.
        """
        links = self.links(peer_id)
        if not links:
            raise StreamError(f"not connected to {peer_id}")
        async with self._stream_on(links[-1], protocol) as stream:
            yield stream

    @asynccontextmanager
    async def _stream_on(self, link: Link, protocol: str, *, in_turns: bool = False) -> AsyncIterator[NetStream]:
        stream = None
        try:
            stream = await link.new_stream()
            try:
                with trio.fail_after(NEGOTIATION):
                    rest = await multistream.ask(stream.read, stream.write, protocol, in_turns=in_turns)
                    muxed(stream).unread(rest)
            except trio.TooSlowError as error:
                raise MultiselectClientError("timed out") from error
            stream.set_protocol(TProtocol(protocol))
            yield stream
            await stream.close()
            if self._tasks is not None and not getattr(stream.muxed_stream, "done", True):
                self._tasks.start_soon(_let_go, stream)
        except BaseException as error:
            if stream is not None:
                with trio.move_on_after(GOODBYE, shield=True):
                    try:
                        await stream.reset()
                    except Exception as secondary:  # noqa: BLE001 - the first error is the one to tell
                        log.debug("stream could not be reset", error=repr(secondary))
            if isinstance(error, ProtocolNotSupportedError):
                raise ProtocolUnsupported(f"{link.peer_id} does not speak {protocol}") from error
            if isinstance(error, MultiselectClientError):
                raise StreamError(f"{link.peer_id} did not agree on {protocol}: {error}") from error
            if isinstance(error, Exception) and not isinstance(error, StreamError | trio.TooSlowError):
                raise StreamError(
                    f"the stream to {link.peer_id} failed: {str(error) or type(error).__name__}"
                ) from error
            raise
        finally:
            if stream is not None:
                link.remove_stream(stream)

    # ----------------------------------------------------------------------------------------------------------------
    # What it is told

    def connected(self, link: Link) -> None:
        self.observer.connected(link)
        if self._tasks is not None and link.peer_id not in self._infos:
            self._tasks.start_soon(self._identify, link)

    def disconnected(self, link: Link) -> None:
        if not self.links(link.peer_id):
            self._infos.pop(link.peer_id, None)
        self.observer.disconnected(link)

    async def identify_again(self, link: Link) -> None:
        """Ask a connected peer anew. Only what has changed is told.

        In turns: rust-libp2p looks at its idle limit when it has nothing else to do, and a stream that comes and goes
        in between does not count (libp2p-swarm 0.45.1, src/connection.rs, `poll`); one still being agreed on does.
        """
        await self._identify(link, again=True)

    async def _identify(self, link: Link, *, again: bool = False) -> None:
        """Ask a newly connected peer who it is; a peer that does not say stays connected."""
        try:
            with trio.fail_after(identify.DEADLINE):
                async with self._stream_on(link, identify.ID, in_turns=again) as stream:
                    message = await identify.read_message(stream)
            await identify.remember(self._host, stream, message)
            self._identify_received += 1
            self._learned(link, message)
            # it may have asked before the change, when we knew nothing of it yet
            if not again and self._changed >= link.opened:
                await self._push(link)
        except (StreamError, identify.IdentifyError, trio.TooSlowError) as error:
            log.debug("identify failed", peer=link.peer_id, error=str(error) or "timed out")

    def _answered(self) -> None:
        self._identify_sent += 1

    def _learn(self, stream: INetStream, message: Identify) -> None:
        self._identify_pushed += 1
        peer_id = stream.muxed_conn.peer_id.to_base58()
        for link in self.links(peer_id)[:1]:
            self._learned(link, message)

    def _learned(self, link: Link, message: Identify) -> None:
        if link.is_closed:
            return
        known, info = self._infos.get(link.peer_id), identify.to_info(message)
        self._infos[link.peer_id] = info
        # Asked again, or pushed because of something that is not shown, it is mostly the same: no news, no event.
        if known is None or replace(known, observed=None) != replace(info, observed=None):
            self.observer.identified(link, info)


async def _let_go(stream: NetStream) -> None:
    """We are done with a stream and its other side is not: it has a moment, and nothing more to say."""
    with trio.move_on_after(LINGER):
        try:
            await stream.muxed_stream.read(1)
        except (IOException, MuxedStreamError):
            return  # it has ended, one way or the other
    await stream.reset()


async def _unset(stream: INetStream) -> None:
    await stream.reset()


def _announced(text: str) -> Address:
    try:
        return parse(text).bare
    except AddressError as error:
        raise ListenError(text, str(error)) from error


def _listen_address(text: str) -> Address:
    try:
        address = parse(text).bare
    except AddressError as error:
        raise ListenError(text, str(error)) from error
    if address.relay:
        raise ListenError(text, "a relay is not listened on; it goes into [relay] nodes")
    return address


__all__ = [
    "DialError",
    "DialLimit",
    "Host",
    "HostObserver",
    "HostSettings",
    "Limits",
    "Link",
    "ListenError",
    "Liveness",
    "PeerInfo",
    "ProtocolUnsupported",
    "StreamError",
]
