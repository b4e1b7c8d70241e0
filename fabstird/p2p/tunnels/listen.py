"""A tunnel for peers: it connects their streams on a protocol to a program."""

from __future__ import annotations

import os
import socket
import struct

import trio

from fabstir_client.api.errors import LimitExceeded
from fabstird.config.tunnels import plain_ip
from fabstird.p2p.net.link import Link
from fabstird.p2p.net.stream import Stream as PeersStream
from fabstird.p2p.streams.handlers import Handler
from fabstird.p2p.streams.ledger import Ledger, Stream
from fabstird.p2p.streams.local_socket import LocalSocket
from fabstird.p2p.streams.peer_stream import BUSY, PeerStream
from fabstird.p2p.streams.places import network
from fabstird.p2p.tunnels.proxy_header import header
from fabstird.p2p.tunnels.store import Kept
from fabstird.p2p.tunnels.targets import LOCALHOST, Target
from fabstird.p2p.tunnels.tunnel import Tunnel
from fabstird.p2p.wire.addresses import parse
from fabstird.threads import Answer, look_up

CONNECT = 10.0  # seconds for the program to accept a connection


class ListenTunnel(Tunnel):
    def __init__(self, about: Kept, target: Target, *, keep: bool) -> None:
        super().__init__(about, keep=keep)
        self.target = target

    def admits(self, peer_id: str) -> bool:
        return self.about.peers is None or peer_id in self.about.peers

    def kept(self) -> Kept:
        return self.about

    async def run(self) -> None:
        """Nothing to do: its streams are served by the tasks of their connections."""
        await trio.sleep_forever()


class TunnelHandler(Handler):
    def __init__(self, tunnel: ListenTunnel, ledger: Ledger) -> None:
        super().__init__(tunnel.about.protocol, tunnel, shared=False)
        self._tunnel = tunnel
        self._ledger = ledger

    def has_room(self, link: Link) -> bool:
        return self._ledger.over(link.peer_id, network(link)) is None

    def end(self) -> None:
        """The tunnel itself ends its open streams."""

    async def serve(self, stream: PeersStream) -> None:
        peer, tunnel, opener = PeerStream(stream, "inbound"), self._tunnel, network(stream.link)
        try:
            self._ledger.reserve(peer.peer_id, opener)
        except LimitExceeded:  # another call took the last place meanwhile
            await peer.reset(BUSY)
            return
        taken = Stream(peer, self.protocol, tunnel, self._ledger, opener, tunnel.ended)
        self._ledger.enter(taken)
        tunnel.took(taken)
        try:
            try:
                with trio.fail_after(CONNECT):
                    sock = await connect(tunnel.target)
                    if tunnel.about.proxy_protocol:
                        await _send(sock, _header(peer))
            except (OSError, trio.TooSlowError) as error:
                tunnel.failed(f"{tunnel.target}: {_words(error)}")
                await taken.drop("reset")
                return
            await taken.join(LocalSocket(sock))
        finally:
            taken.lose()


async def connect(target: Target) -> trio.socket.SocketType:
    """Connect to a program. The caller sets the deadline. Raises OSError."""
    if target.path is not None:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await sock.connect(os.fspath(target.path))
            if struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == os.getpid():
                raise PermissionError(0, "that is the daemon's own API, which peers may not reach")
        except BaseException:
            sock.close()
            raise
        return sock
    host = "127.0.0.1" if target.host.lower() == LOCALHOST else target.host
    found: list[Answer]
    if (ip := plain_ip(host)) is not None:
        found = [(socket.AF_INET if ip.version == 4 else socket.AF_INET6, 0, 0, "", (str(ip), target.port))]
    else:  # each stream of a peer asks for it, and trio's own threads are everybody's
        found = await look_up(host, target.port, socket.AF_UNSPEC)
    failure: OSError = ConnectionRefusedError(0, "no address")
    for family, _, _, _, address in found:
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _send(sock: trio.socket.SocketType, data: bytes) -> None:
    try:
        while data:
            data = data[await sock.send(data) :]
    except BaseException:
        sock.close()
        raise


def _header(peer: PeerStream) -> bytes:
    address = parse(peer.address)
    return header(peer.peer_id, None, None) if address.relay else header(peer.peer_id, address.host, address.port)


def _words(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"did not answer within {CONNECT:g} s"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
