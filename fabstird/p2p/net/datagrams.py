"""QUIC in the swarm: listening sockets, sockets for dials only, and the admission of newcomers. It is imported with the
first QUIC address that is listened on or dialled, since aioquic takes time and memory."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import trio

from fabstird.log.logger import adopt_libraries
from fabstird.p2p.fence import Fence
from fabstird.p2p.muxer.muxed import CapableConn
from fabstird.p2p.muxer.pulse import Liveness
from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.quic.connection import Connection
from fabstird.p2p.quic.endpoint import Endpoint
from fabstird.p2p.quic.identity import Identity
from fabstird.p2p.quic.stateless import Tokens
from fabstird.p2p.security import certificate
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.wire.addresses import Address
from fabstird.p2p.wire.ips import reach, to_ip
from fabstird.turn import Turn

OWED = 32 * 1024 * 1024  # bytes that all peers together have not acknowledged; beyond it each connection gets little


class Newcomers(Protocol):
    """What the swarm decides about newcomers."""

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        """Whether a newcomer may begin a handshake; it is counted once its address is ``proven``."""

    def accept(self, connection: CapableConn) -> None:
        """Own a new connection."""

    def refusal(self, host: str) -> str | None:
        """Why an IP address is refused; None where it is not."""


class Datagrams:
    """The UDP sockets of one node, their connections, and what these may hold."""

    def __init__(
        self,
        key: NodeKey,
        traffic: Traffic,
        newcomers: Newcomers,
        fence: Fence,
        liveness: Callable[[], Liveness],
        turn: Turn,
    ) -> None:
        adopt_libraries()
        self._tokens = Tokens(key.secret(b"stateless resets"))
        own, shown = certificate.make(key)
        self._identity = Identity(shown, own, self._tokens.of)
        self._traffic = traffic
        self._newcomers = newcomers
        self._fence = fence
        self._liveness = liveness
        self._turn = turn
        self._endpoints: list[Endpoint] = []
        self._owed = 0
        self._gone = {"retries": 0, "dropped": 0}

    def listen(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Accept connections on a bound socket as long as ``nursery`` is open."""
        self._serve(self._made(sock, accepts=True), nursery)

    def _made(self, sock: socket.socket, *, accepts: bool) -> Endpoint:
        tokens = self._tokens.at(str(sock.getsockname()[:2]))
        endpoint = Endpoint(
            sock, replace(self._identity, token=tokens.of), tokens, self, self._traffic, self._turn, accepts=accepts
        )
        self._endpoints.append(endpoint)
        return endpoint

    def _serve(self, endpoint: Endpoint, nursery: trio.Nursery) -> None:
        self._fence.keep(nursery, "connection", endpoint.run)

    def dial(self, address: Address, nursery: trio.Nursery) -> Connection:
        """A connection to an ip4 or ip6 address, from a listener's port where possible; `CapableConn.upgrade` begins
        it. Raises OSError."""
        found = next((one for one in self._endpoints if _reaches(one, address)), None)
        if found is None:
            found = self._made(_any_port(address.kind), accepts=False)
            self._serve(found, nursery)
        return found.connect(address)

    def dial_apart(self, address: Address, nursery: trio.Nursery) -> Connection:
        """As `dial`, from a socket for this connection alone, which is closed as the nursery ends."""
        endpoint = self._made(_any_port(address.kind), accepts=False)
        self._fence.spawn(nursery, "connection", self._serve_one, endpoint)
        return endpoint.connect(address)

    async def _serve_one(self, endpoint: Endpoint) -> None:
        try:
            await endpoint.run()
        finally:
            self._endpoints.remove(endpoint)
            endpoint.close()

    def listener_for(self, address: Address) -> Endpoint:
        """The one from whose port an address can be dialled. Raises `DialError`."""
        for endpoint in self._endpoints:
            if endpoint.accepts and _reaches(endpoint, address):
                return endpoint
        raise DialError(f"this node listens on no UDP port from which {address.bare} can be reached")

    def close(self) -> None:
        """Close every socket. Their connections have ended, and nothing reads from them."""
        self._gone = self.counted()
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()

    # ----------------------------------------------------------------------------------------------------------------
    # What endpoints ask for

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        return self._newcomers.admits(remote, local, proven=proven)

    def accept(self, connection: Connection) -> None:
        self._newcomers.accept(connection)

    def refusal(self, host: str) -> str | None:
        return self._newcomers.refusal(host)

    def idle(self) -> float:
        liveness = self._liveness()
        return 2 * (liveness.interval + liveness.timeout)

    def owe(self, size: int) -> None:
        self._owed += size

    def owes(self) -> bool:
        return self._owed < OWED

    def counted(self) -> dict[str, int]:
        """Counts for metrics, available after the sockets are closed too."""
        return {
            "retries": self._gone["retries"] + sum(one.retries for one in self._endpoints),
            "dropped": self._gone["dropped"] + sum(one.dropped for one in self._endpoints),
        }

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Unacknowledged bytes, and their bound."""
        return {"unacknowledgedBytes": (self._owed, OWED)}


def _any_port(kind: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if kind == "ip6" else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if kind == "ip6":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::" if kind == "ip6" else "0.0.0.0", 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _reaches(endpoint: Endpoint, address: Address) -> bool:
    """Whether a dial may use the listener's port: one bound to loopback reaches only this machine."""
    if endpoint.bound.kind != address.kind:
        return False
    own, target = to_ip(endpoint.bound.host), to_ip(address.host)
    if own is None or target is None:
        return False
    return own.is_unspecified or (reach(own) == "loopback") is (reach(target) == "loopback")
