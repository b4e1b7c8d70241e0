"""The tunnels of this daemon: they are made, listed, closed, and restored after a restart."""

from __future__ import annotations

import secrets
from pathlib import Path

import trio

from fabstir_client.api.errors import FabstirError, InvalidParams, InvalidState, LimitExceeded
from fabstir_client.api.tunnels import TunnelClosed, TunnelForwardParams, TunnelListenParams, TunnelRecord
from fabstird.config import Config
from fabstird.log.logger import get_logger
from fabstird.p2p.fence import Fence
from fabstird.p2p.host.host import Host
from fabstird.p2p.peers.commands import Commands
from fabstird.p2p.streams.handlers import Handlers
from fabstird.p2p.streams.ledger import Ledger, Stream
from fabstird.p2p.streams.opening import open_to
from fabstird.p2p.streams.protocol_names import checked_protocol
from fabstird.p2p.tunnels.forward import ForwardTunnel
from fabstird.p2p.tunnels.listen import ListenTunnel, TunnelHandler
from fabstird.p2p.tunnels.store import Kept, Store
from fabstird.p2p.tunnels.targets import check_allowed, parse
from fabstird.p2p.tunnels.tunnel import Tunnel

log = get_logger("p2p.tunnels")

MAX_TUNNELS = 256
MAX_PEERS = 256  # peers that one tunnel may be for
LISTEN, FORWARD = "tunnel.listen", "tunnel.forward"


class Tunnels:
    """All tunnels. They live as long as `serve` runs, across stops and starts of the node."""

    def __init__(
        self, path: Path, handlers: Handlers, ledger: Ledger, commands: Commands, config: Config, fence: Fence
    ) -> None:
        self.fence = fence
        self._store = Store(path)
        self._handlers = handlers
        self._ledger = ledger
        self._commands = commands
        self._config = config
        self._tunnels: dict[str, Tunnel] = {}
        self._running: dict[str, tuple[trio.CancelScope, trio.Event]] = {}  # to cancel it, and set when it has ended
        self._host: Host | None = None
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()
        self._changing = trio.Lock()

    def attach(self, host: Host) -> None:
        """A run of the node has begun."""
        self._host = host

    def detach(self) -> None:
        """The run has ended."""
        self._host = None

    async def serve(self) -> None:
        """Restore saved tunnels, and run all of them until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                for kept in (await self._store.read())[:MAX_TUNNELS]:
                    try:
                        self._add(self._made(kept, keep=True, again=True))
                    except FabstirError as error:
                        log.warning("a kept tunnel cannot be had any more", tunnel=kept.tunnel_id, error=str(error))
                self._ready.set()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # ----------------------------------------------------------------------------------------------------------------
    # For users

    async def listen(self, params: TunnelListenParams, holder: object | None = None) -> TunnelRecord:
        """Make a tunnel for peers. If ``holder`` is given, it lasts until `release`. Raises `InvalidParams`,
        `InvalidState`, `Forbidden`, `LimitExceeded`."""
        peers = None
        if params.peers is not None:
            if len(params.peers) > MAX_PEERS:
                raise InvalidParams(f"peers: {MAX_PEERS} at most, not {len(params.peers)}", param="peers")
            peers = list(dict.fromkeys(self._commands.peer_id(peer, "peers") for peer in params.peers))
        kept = Kept(
            tunnel_id=secrets.token_hex(8),
            kind="listen",
            protocol=params.protocol,
            end=params.target,
            peers=peers,
            proxy_protocol=bool(params.proxy_protocol),
        )
        return await self._make(kept, holder, keep=bool(params.keep))

    async def forward(self, params: TunnelForwardParams, holder: object | None = None) -> TunnelRecord:
        """Make a tunnel to a peer. If ``holder`` is given, it lasts until `release`. Raises `InvalidParams`,
        `Forbidden`, `LimitExceeded`, `ListenFailed`."""
        kept = Kept(
            tunnel_id=secrets.token_hex(8),
            kind="forward",
            protocol=params.protocol,
            end=params.listen,
            peer_id=self._commands.peer_id(params.peer_id),
        )
        return await self._make(kept, holder, keep=bool(params.keep))

    async def records(self) -> list[TunnelRecord]:
        """All tunnels. Right after a start this waits until saved ones have been read."""
        await self._ready.wait()
        return [tunnel.record() for tunnel in self._tunnels.values()]

    async def close(self, tunnel_id: str) -> TunnelClosed:
        """Close a tunnel. Raises `InvalidState` where there is none, and where this cannot be saved."""
        await self._ready.wait()
        async with self._changing:
            tunnel = self._tunnels.pop(tunnel_id, None)
            if tunnel is None:
                raise InvalidState(f'there is no tunnel "{tunnel_id[:64]}"', tunnelId=tunnel_id[:64])
            closed = await self._end(tunnel)
            if tunnel.keep:
                await self._save("it is closed, but will be there again after a restart")
        return TunnelClosed(tunnel_id=tunnel_id, closed=closed)

    def release(self, holder: object) -> None:
        """Close the tunnels that ``holder`` leases, since it has ended."""
        for tunnel in self._tunnels.values():
            if tunnel.holder is holder and self._nursery is not None:
                self.fence.spawn(self._nursery, "caller", self._let_go, tunnel.id)

    async def _let_go(self, tunnel_id: str) -> None:
        try:
            await self.close(tunnel_id)
        except InvalidState:
            pass  # it was closed meanwhile

    def wanting(self, peer_id: str) -> list[str]:
        """The ids of the tunnels that lead to a peer."""
        return [tunnel.id for tunnel in self._tunnels.values() if tunnel.about.peer_id == peer_id]

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"tunnels": (len(self._tunnels), MAX_TUNNELS)}

    # ----------------------------------------------------------------------------------------------------------------

    async def _make(self, kept: Kept, holder: object | None, *, keep: bool) -> TunnelRecord:
        await self._ready.wait()
        async with self._changing:
            if len(self._tunnels) >= MAX_TUNNELS:
                words = f"there are {MAX_TUNNELS} tunnels; close one first"
                raise LimitExceeded(words, limit=MAX_TUNNELS, current=len(self._tunnels), configKey=None)
            tunnel = self._made(kept, keep=keep)
            tunnel.holder = holder
            self._add(tunnel)
            if keep:
                try:
                    await self._save("no tunnel was made")
                except BaseException:
                    del self._tunnels[tunnel.id]
                    await self._end(tunnel)
                    raise
        return tunnel.record()

    def _made(self, kept: Kept, *, keep: bool, again: bool = False) -> Tunnel:
        """Make a tunnel. ``again`` means that it existed before a restart, and that what it needs may come back."""
        allow = self._config.tunnels.allow
        if kept.kind == "listen":
            target = parse("target", kept.end)
            check_allowed("target", target, allow, LISTEN)
            tunnel = ListenTunnel(kept, target, keep=keep)
            self._handlers.check(kept.protocol, tunnel, TunnelHandler, shared=False)
            self._handlers.add(TunnelHandler(tunnel, self._ledger))
            return tunnel
        listen = parse("listen", kept.end, any_port=True)
        check_allowed("listen", listen, allow, FORWARD)
        checked_protocol(kept.protocol)
        forward = ForwardTunnel(kept, listen, self, keep=keep)
        try:
            forward.bind()
        except FabstirError as error:
            if not again:
                raise
            forward.failed(str(error))
            log.warning("a kept tunnel cannot listen; it tries again", tunnel=kept.tunnel_id, error=str(error))
        return forward

    def _add(self, tunnel: Tunnel) -> None:
        assert self._nursery is not None
        self._tunnels[tunnel.id] = tunnel
        scope, ended = self._running[tunnel.id] = (trio.CancelScope(), trio.Event())

        async def run() -> None:
            try:
                with scope:
                    await tunnel.run()
            finally:
                ended.set()

        self._nursery.start_soon(run)

    async def _end(self, tunnel: Tunnel) -> int:
        if isinstance(tunnel, ListenTunnel):
            self._handlers.remove(tunnel.about.protocol, tunnel)
        closed = await tunnel.end_streams()
        scope, ended = self._running.pop(tunnel.id)
        scope.cancel()
        await ended.wait()
        return closed

    async def _save(self, otherwise: str) -> None:
        try:
            await self._store.write(tunnel.kept() for tunnel in self._tunnels.values() if tunnel.keep)
        except OSError as error:
            words = f"{otherwise}: {self._store.path.name} cannot be written: {error.strerror}"
            raise InvalidState(words, saved=False) from error

    # ----------------------------------------------------------------------------------------------------------------
    # How forward tunnels reach their peers

    def connected(self, peer_id: str) -> bool | None:
        return None if self._host is None else bool(self._host.links(peer_id))

    async def connect(self, peer_id: str) -> None:
        self._up()
        await self._commands.connect(peer_id, None)

    async def open(self, tunnel: ForwardTunnel) -> Stream:
        host, protocol = self._up(), tunnel.about.protocol
        timeout = self._config.node.request_timeout
        stream = await open_to(host, self._commands, self._ledger, tunnel.peer_id, [protocol], timeout, tunnel)
        stream.on_end = tunnel.ended
        return stream

    def _up(self) -> Host:
        if self._host is None:
            raise InvalidState("the node is not started")
        return self._host
