"""Hole punching: two nodes behind NATs, connected through a relay, dial each other in the same moment, each from the
port that it listens on; what goes out opens its own NAT for what comes in (libp2p specification, relay/DCUtR). Over
QUIC one dials, and the other sends a few random bytes to the same end.

What a peer names is dialled on a stranger's word. So it must be a peer of a relayed connection, the addresses are held
to `dial_policy`, four of a peer, few punches at a time, three on one connection, and few tries a place.
"""

from __future__ import annotations

from functools import partial

import trio

from fabstird.log.logger import get_logger
from fabstird.metrics.counters import Counters
from fabstird.p2p.host.host import DialError, Host, Link, Stream, StreamError
from fabstird.p2p.nat import dcutr
from fabstird.p2p.nat.dcutr import DCUTR, Outside
from fabstird.p2p.net.link import cut
from fabstird.p2p.net.outbound import PUNCH
from fabstird.p2p.net.race import NoneConnected, race
from fabstird.p2p.peers.dial_policy import Attempts, refusal
from fabstird.p2p.peers.history import History
from fabstird.p2p.peers.manager import Connections
from fabstird.p2p.wire.addresses import QUIC, Transport, parse
from fabstird.p2p.wire.ips import reach, to_ip

log = get_logger("p2p.punching")

TRIES = 3  # on one relayed connection
AT_ONCE = 8  # punches, of both roles
TALK = 10.0  # seconds for the messages of one
TOGETHER = 15.0  # seconds for one to come up, handshake included
SLACK = 0.03  # seconds for the other side to dial once it has the word: rather we are late than its listener is met
REFUSED = 5  # dials of one address that a router may refuse before the other side's has opened it
AGAIN = 0.2  # seconds after such a refusal
LET_GO = ("closed", "banned", "trimmed")  # why connections end whose peer this node wants no longer
BEHIND = 0.25  # seconds that a dial over TCP is ahead of one over QUIC, which costs both sides more


class Stays(Exception):
    """The peer stays behind its relay; the message says why."""


class Punching:
    """Of one run of the node."""

    def __init__(self, host: Host, connections: Connections, counters: Counters, history: History) -> None:
        self._host = host
        self._connections = connections
        self._counters = counters
        self._history = history
        self._places = Attempts()
        self._sessions: dict[Link, _Session] = {}  # of relayed connections on which there was a try
        self._under_way: dict[str, trio.CancelScope] = {}  # by peer
        if self._transports():
            host.set_stream_handler(DCUTR, self._asked)

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"holePunches": (len(self._under_way), AT_ONCE)}

    def is_under_way(self, peer_id: str) -> bool:
        """Both dial each other now."""
        return peer_id in self._under_way

    def disconnected(self, link: Link) -> None:
        """What it has tried in vain is not tried again soon on another relayed connection. Where this node has let the
        peer go, it dials it no longer either."""
        session = self._sessions.pop(link, None)
        if self._under_way and link.relayed and link.reason in LET_GO and link.peer_id in self._under_way:
            self._under_way[link.peer_id].cancel()
        if session is not None and not session.led_on:
            for text in session.allowed:
                address = parse(text)
                if (ip := to_ip(address.host)) is not None:
                    self._places.failed(ip, address.port, trio.current_time())

    # ----------------------------------------------------------------------------------------------------------------
    # The side that was called through the relay

    async def punch(self, link: Link) -> None:
        """Ask the peer of a relayed connection to dial us while we dial it. Returns when there is a direct connection,
        whoever has made it. Raises `Stays`."""
        for number in range(1, TRIES + 1):
            own = self._outside()
            if not own.addresses:
                raise Stays("no peer has told at which public address and port this node is seen")
            try:
                with trio.fail_after(TALK):
                    async with self._host.streams.open(link, DCUTR) as stream:
                        addresses, round_trip = await dcutr.ask(stream, own.addresses)
            except (StreamError, trio.TooSlowError) as error:
                if self._is_direct(link):
                    return
                raise Stays(f"no hole punching: {str(error) or 'it does not answer'}") from error
            if link.is_closed:  # it is being forgotten, and must not be remembered again
                raise Stays("the connection through the relay has ended")
            session = self._sessions.setdefault(link, _Session())
            session.named.update(addresses)
            if own.changing and session.is_changing:
                raise Stays("both NATs show their nodes to each peer at another port (symmetric)")
            await trio.sleep(round_trip / 2 + SLACK)
            # go-libp2p before 0.41 has the roles the other way round: the last try has room for that
            await self._both_dial(link, addresses, number, round_trip, initiator=number == TRIES)
            if self._is_direct(link):
                return
        raise Stays(self._why_not(link, own))

    def _why_not(self, link: Link, own: Outside) -> str:
        session = self._sessions.get(link, _Session())
        if own.changing:
            return "this node's NAT shows it to each peer at another port (symmetric); hole punching has failed"
        if session.is_changing:
            return "its NAT shows it to each peer at another port (symmetric); hole punching has failed"
        return f"{TRIES} tries of hole punching have failed: {session.error}"

    # ----------------------------------------------------------------------------------------------------------------
    # The side that has called

    async def _asked(self, stream: Stream) -> None:
        link, own = stream.link, self._outside()
        session = self._sessions.get(link)
        used_up = session is not None and session.tries >= TRIES
        if not link.relayed or link.direction != "outbound" or link.is_closed or used_up or not own.addresses:
            self._counters.punches["refused"] += 1
            await cut(stream)
            return
        with trio.fail_after(TALK):
            addresses = await dcutr.answer(stream, own.addresses)
            await stream.close_write()
        number = session.tries + 1 if session is not None else 1
        await self._both_dial(link, addresses, number, None, initiator=True)

    # ----------------------------------------------------------------------------------------------------------------
    # Both

    async def _both_dial(
        self, link: Link, addresses: list[str], number: int, round_trip: float | None, *, initiator: bool
    ) -> None:
        """Dial, as the other side does now. How it went is in the session, unless there is a direct connection."""
        peer_id = link.peer_id
        if self._is_direct(link) or link.is_closed:
            return
        session = self._sessions.setdefault(link, _Session())
        if session.tries >= TRIES:  # the peer has had many begin at once, and here nothing waits any more
            self._counters.punches["refused"] += 1
            return
        session.tries += 1
        if (before := self._under_way.pop(peer_id, None)) is not None:
            before.cancel()  # the peer has begun anew
        allowed = self._allowed(session, addresses, link)
        if not allowed:
            return
        if len(self._under_way) >= AT_ONCE:
            session.error = "this node punches as many holes as it may at once"
            return
        self._counters.punches["tried"] += 1
        measured = "" if round_trip is None else f", {round_trip * 1000:.0f} ms away"
        self._history.note(peer_id, "hole_punch", detail=f"try {number} at {', '.join(allowed)}{measured}")
        due = trio.current_time() + PUNCH
        awaited = [parse(text) for text in allowed if initiator]
        with trio.CancelScope() as scope, self._host.swarm.inbound.awaiting(awaited):
            self._under_way[peer_id] = scope
            try:
                await race(
                    [f"{address}/p2p/{peer_id}" for address in allowed],
                    partial(self._dial, behind=len(_of(allowed)) > 1, initiator=initiator),
                    stagger=0,
                )
            except NoneConnected as failed:
                session.error = str(failed)
                await trio.sleep_until(due)  # the other side's dial may come to the port that we listen on
            finally:
                if self._under_way.get(peer_id) is scope:
                    del self._under_way[peer_id]
        outcome = "direct" if self._is_direct(link) else "failed"
        self._counters.punches[outcome] += 1
        log.debug("hole punching", peer=peer_id, number=number, outcome=outcome, error=session.error)

    async def _dial(self, text: str, *, behind: bool, initiator: bool) -> Link:
        """A router that does not expect the other side yet may refuse it instead of keeping silent. ``behind``: what
        goes over QUIC waits a moment for TCP."""
        if behind and initiator and parse(text).transport == QUIC:
            await trio.sleep(BEHIND)
        try:
            with trio.fail_after(TOGETHER):
                for _ in range(REFUSED):
                    try:
                        return await self._host.punch(text, timeout=TOGETHER, initiator=initiator)
                    except DialError as error:
                        if error.kind not in ("connection refused", "connection reset"):
                            raise
                    await trio.sleep(AGAIN)
        except trio.TooSlowError as error:
            raise DialError("timed out", "deadline") from error
        raise DialError(f"refused {REFUSED} times", "connection refused")

    def _allowed(self, session: _Session, addresses: list[str], link: Link) -> list[str]:
        """Those that may be dialled on this peer's word. One counts where it leads once in a session."""
        source, now = self._connections.source(link), trio.current_time()
        for text in addresses:
            address = parse(text)
            ip = to_ip(address.host)
            if text in session.allowed or ip is None or len(session.allowed) >= 2 * dcutr.ADDRESSES:
                continue
            words = refusal(address, source, agreed=True) or self._places.begin(ip, address.port, now)
            if words is None:
                session.allowed.add(text)
            else:
                session.error = f"{text}: {words}"
        return [text for text in addresses if text in session.allowed]

    def met(self, link: Link) -> None:
        """A peer that was relayed is connected directly: nobody needs to dial any more."""
        for relayed, session in self._sessions.items():
            if relayed.peer_id == link.peer_id:
                session.led_on = True
        # One of our own dials is not up yet in this moment: a cancelled one would end with its scope
        if not link.punched and (scope := self._under_way.get(link.peer_id)) is not None:
            scope.cancel()

    def _is_direct(self, link: Link) -> bool:
        return self._host.direct_link(link.peer_id) is not None

    def _outside(self) -> Outside:
        host = self._host
        observed = [
            (info.observed, link.pipe.remote.host)
            for link in host.links()
            if link.pipe.from_own_port and (info := host.info(link.peer_id)) is not None and info.observed
            if dcutr.is_of(info.observed, link.transport)  # else it was asked on another connection
        ]
        # What the operator announces stands instead of what the node finds
        own = host.announced_addresses() if host.announces_given else host.listen_addresses()
        return dcutr.outside(observed, own, self._transports())

    def _transports(self) -> set[Transport]:
        """Through which holes can be punched from here: for each there is a port that others could reach."""
        return _of([text for text in self._host.listen_addresses() if _is_outward(text)]) & dcutr.PUNCHABLE.keys()


class _Session:
    """What was tried on one relayed connection: of the addresses that were ``named``, those that are ``allowed`` were
    dialled. ``led_on`` to a direct connection, whoever has made it."""

    __slots__ = ("allowed", "error", "led_on", "named", "tries")

    def __init__(self) -> None:
        self.tries = 0
        self.named: set[str] = set()
        self.allowed: set[str] = set()
        self.led_on = False
        self.error = "the peer named no address that can be dialled"

    @property
    def is_changing(self) -> bool:
        """The peer is seen at one host and several ports."""
        return dcutr.is_changing(self.named)


def _is_outward(text: str) -> bool:
    """An address at which a machine other than this one could knock."""
    ip = to_ip(parse(text).host)
    return ip is not None and reach(ip) in ("global", "private")


def _of(addresses: list[str]) -> set[Transport]:
    return {parse(text).transport for text in addresses}
