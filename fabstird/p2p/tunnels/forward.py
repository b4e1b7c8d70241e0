"""A tunnel to a peer: programs that connect to its socket reach that peer, on a protocol. It keeps trying to reach the
peer; while it cannot, it closes new connections at once."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from functools import partial
from typing import Protocol

import msgspec
import trio

from fabstir_client.api.errors import FabstirError, ListenFailed
from fabstird.log.logger import get_logger
from fabstird.p2p.fence import Fence
from fabstird.p2p.streams.ledger import Stream
from fabstird.p2p.streams.local_socket import LocalSocket
from fabstird.p2p.tunnels.store import Kept
from fabstird.p2p.tunnels.targets import LOCALHOST, Target
from fabstird.p2p.tunnels.tunnel import Tunnel
from fabstird.unix_socket import BindError, listening

log = get_logger("p2p.tunnels")

LOOK = 1.0  # seconds between two checks whether the peer is connected
FIRST_DELAY, LAST_DELAY = 1.0, 60.0  # seconds between two attempts to connect to it
BIND_AGAIN = 5.0  # seconds until a port used by another program is tried again
BACKLOG = 128
MODE = 0o600  # of a Unix socket


class Reach(Protocol):
    """How a tunnel reaches its peer, and the ``fence`` for tasks that handle programs' and peers' bytes."""

    fence: Fence

    def connected(self, peer_id: str) -> bool | None:
        """Whether the peer is connected; None while the node is not started."""

    async def connect(self, peer_id: str) -> None:
        """Connect to the peer. Raises `FabstirError`."""

    async def open(self, tunnel: ForwardTunnel) -> Stream:
        """Open a stream. Raises `FabstirError`."""


class ForwardTunnel(Tunnel):
    def __init__(self, about: Kept, listen: Target, reach: Reach, *, keep: bool) -> None:
        super().__init__(about, keep=keep)
        assert about.peer_id is not None
        self.peer_id: str = about.peer_id
        self._listen = listen
        self._reach = reach
        self._held = ExitStack()  # the resources of the socket
        self._socket: socket.socket | None = None
        self._away = False  # the last attempt to reach the peer failed
        self._hurry = trio.Event()

    def kept(self) -> Kept:
        return msgspec.structs.replace(self.about, end=str(self._listen))

    def bind(self) -> None:
        """Listen. Raises `ListenFailed`."""
        try:
            if self._listen.path is not None:
                self._socket = self._held.enter_context(listening(self._listen.path, MODE, "listen"))
            else:
                self._socket = self._held.enter_context(_bound(self._listen))
                self._listen = Target(self._listen.host, self._socket.getsockname()[1])
        except (BindError, OSError) as error:
            reason = str(error) if isinstance(error, BindError) else (error.strerror or str(error)).lower()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                reason += "; another program has it"
            raise ListenFailed(f"{self._listen}: {reason}", address=str(self._listen), reason=reason) from error

    async def run(self) -> None:
        fence = self._reach.fence
        try:
            async with trio.open_nursery() as nursery:
                fence.keep(nursery, "dial", self._keep_reaching)
                while self._socket is None:
                    await trio.sleep(BIND_AGAIN)
                    try:
                        self.bind()
                        self.last_error = None
                    except ListenFailed as error:
                        self.failed(str(error))
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
                await trio.serve_listeners(
                    partial(fence.run, "stream", self._carry), [listener], handler_nursery=nursery
                )
        finally:
            self._held.close()

    async def _carry(self, came: trio.SocketStream) -> None:
        """Serve one connection of a program."""
        local = LocalSocket(came.socket)
        if self._away and not self._reach.connected(self.peer_id):
            self._hurry.set()
            local.close("reset")
            return
        try:
            stream = await self._reach.open(self)
        except FabstirError as error:
            self.failed(str(error))
            local.close("reset")
        except BaseException:
            local.close("reset")
            raise
        else:
            self.took(stream)
            await stream.join(local)

    async def _keep_reaching(self) -> None:
        delay = FIRST_DELAY
        while True:
            pause = LOOK
            if self._reach.connected(self.peer_id) is False:
                try:
                    await self._reach.connect(self.peer_id)
                except FabstirError as error:
                    if not self._away:
                        log.info("the peer of a tunnel is away", tunnel=self.id, peer=self.peer_id, error=str(error))
                    self._away = True
                    self.failed(str(error))
                    pause, delay = delay, min(delay * 2, LAST_DELAY)
            if self._reach.connected(self.peer_id):
                if self._away:
                    self._away, self.last_error = False, None
                delay = FIRST_DELAY
            with trio.move_on_after(pause):
                await self._hurry.wait()
                await trio.sleep(LOOK)  # new connections do not cause more frequent dials
            self._hurry = trio.Event()


def _bound(listen: Target) -> socket.socket:
    """Bind the socket. Raises OSError."""
    host = "127.0.0.1" if listen.host.lower() == LOCALHOST else listen.host
    family, kind, number, _, address = socket.getaddrinfo(
        host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, number)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
