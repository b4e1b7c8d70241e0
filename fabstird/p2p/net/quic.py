"""QUIC, loaded with the first QUIC address that is listened on or dialled: a node without one pays nothing."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol

import trio

from fabstird.p2p.fence import Fence
from fabstird.p2p.muxer.muxed import CapableConn
from fabstird.p2p.muxer.pulse import Liveness
from fabstird.p2p.net.admission import Limits
from fabstird.p2p.net.dial_errors import DialError
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.transport.pipe import Pipe, Traffic
from fabstird.p2p.transport.sockets import UdpPort
from fabstird.p2p.wire.addresses import Address
from fabstird.threads import imported
from fabstird.turn import Turn

if TYPE_CHECKING:
    from fabstird.p2p.net.datagrams import Datagrams
    from fabstird.p2p.quic.connection import Connection

PUNCH = 5.0  # seconds for anything to arrive from the other side
KNOCKS = 0.01, 0.2  # seconds from one knock to the next, drawn anew each time (libp2p specification, relay/DCUtR)
_CHANCE = random.SystemRandom()
_MODULE = "fabstird.p2p.net.datagrams"


class Door(Protocol):
    """What QUIC needs of the swarm. ``turn`` is shared with other transports."""

    traffic: Traffic
    fence: Fence
    turn: Turn

    @property
    def limits(self) -> Limits:
        """The limits as they are now."""

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        """Whether a newcomer to our address ``local`` may begin a handshake; it is counted once its address is
        ``proven``."""

    def accept(self, connection: CapableConn) -> None:
        """Own a connection that was admitted."""

    def refusal(self, host: str | None, peer_id: str | None) -> str | None:
        """Why an IP address is refused; None where it is not."""


class Quic:
    """QUIC of one swarm."""

    def __init__(self, key: NodeKey, door: Door) -> None:
        self._key = key
        self._door = door
        self._datagrams: Datagrams | None = None
        self._loading = trio.Lock()

    def admits(self, remote: Address, local: str, *, proven: bool) -> bool:
        """Whether a newcomer may begin a handshake; it is counted once its address is ``proven``."""
        return self._door.admits(remote, local, proven=proven)

    def accept(self, connection: CapableConn) -> None:
        """Own a new connection."""
        self._door.accept(connection)

    def refusal(self, host: str) -> str | None:
        """Why an IP address is refused; None where it is not."""
        return self._door.refusal(host, None)

    def liveness(self) -> Liveness:
        """How long a connection may be silent."""
        return self._door.limits.liveness

    async def load(self) -> Datagrams:
        """The part that needs aioquic, imported in a thread."""
        async with self._loading:
            if self._datagrams is None:
                module = await imported(_MODULE)
                door = self._door
                made: Datagrams = module.Datagrams(self._key, door.traffic, self, door.fence, self.liveness, door.turn)
                self._datagrams = made
            return self._datagrams

    async def listen(self, port: UdpPort, nursery: trio.Nursery) -> None:
        """Accept connections on a port as long as ``nursery`` is open."""
        (await self.load()).listen(port.socket, nursery)

    async def dial(self, address: Address, nursery: trio.Nursery) -> Pipe:
        """A connection that is still to be upgraded; its socket is read in ``nursery``. Raises OSError."""
        return (await self.load()).dial(address, nursery)

    async def dial_apart(self, address: Address, nursery: trio.Nursery) -> Pipe:
        """As `dial`, from a socket for this connection alone, which is closed when ``nursery`` ends."""
        return (await self.load()).dial_apart(address, nursery)

    async def punch(self, address: Address, nursery: trio.Nursery, *, initiator: bool) -> Pipe:
        """Punch a hole from the port of a listener. The ``initiator`` dials, and gives up if nothing arrives; a task in
        ``nursery`` watches that. The other side sends random datagrams until that dial arrives like any newcomer;
        whoever waits for it cancels this. Raises `DialError`."""
        listener = (await self.load()).listener_for(address)
        if initiator:
            connection = listener.connect(address)
            connection.punched = True
            nursery.start_soon(_unless_silent, connection)
            return connection
        due = trio.current_time() + PUNCH
        while trio.current_time() < due:
            listener.knock(address)
            await trio.sleep(_CHANCE.uniform(*KNOCKS))
        raise DialError("its dial has not come", "timeout")

    def close(self) -> None:
        """Close every socket. Their connections have ended, and nothing reads from them."""
        if self._datagrams is not None:
            self._datagrams.close()

    def counted(self) -> dict[str, int]:
        """Retries sent, and datagrams that belong to no connection."""
        return self._datagrams.counted() if self._datagrams is not None else {"retries": 0, "dropped": 0}

    def bounds(self) -> dict[str, tuple[int, int]]:
        """The amounts that are bounded, and their bounds."""
        return self._datagrams.bounds() if self._datagrams is not None else {}


async def _unless_silent(connection: Connection) -> None:
    """Fail a dial without any answer, since its address comes from a stranger, who must not direct many datagrams."""
    await trio.sleep(PUNCH)
    if not connection.progress().received:
        connection.fail(DialError("nothing has come from there", "timeout"))
