"""AutoNAT, the client's side (libp2p specification, autonat v1): peers are asked to dial us back, and what they say is
kept in `Reachability`. A server is asked about one address at a time, since its answer names one at most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import trio
from google.protobuf.message import DecodeError
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from fabstir_client.types import AddressReachability
from fabstird.log import get_logger
from fabstird.p2p.addresses import AddressError, parse
from fabstird.p2p.framing import frame, read_message
from fabstird.p2p.host import Host, StreamError
from fabstird.p2p.identify import printable
from fabstird.p2p.reachability import MAX_ADDRESSES, MAX_SERVERS, Reachability, candidates

log = get_logger("p2p.autonat")

AUTONAT = "/libp2p/autonat/1.0.0"
LOOK = 1.0  # seconds between two looks at who could be asked
ASK = 25.0  # seconds for a server to dial and to answer
PAUSE = 30.0  # seconds for which a server that was asked is left alone; go-libp2p's answers three a minute
MAX_MESSAGE = 4096  # bytes


@dataclass(frozen=True, slots=True)
class _Server:
    peer_id: str
    ip: str


class AutoNat:
    """Of one run of the node."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known = Reachability()
        self._asked: dict[str, float] = {}  # when, by the server's IP address
        self._wall_ahead = time.time() - trio.current_time()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK)
                now = trio.current_time()
                self._asked = {ip: at for ip, at in self._asked.items() if at + PAUSE > now}
                addresses = self._candidates()
                self._known.keep(addresses)
                for server in self._servers()[:MAX_SERVERS]:
                    due = [address for address in addresses if self._known.due(address, server.ip, now)]
                    if due and server.ip not in self._asked:
                        self._asked[server.ip] = now
                        nursery.start_soon(self._ask, server, due[0])

    def is_private(self) -> bool:
        """Several servers have tried, and nobody got through."""
        return self._known.is_private(trio.current_time())

    def is_reachable(self) -> bool:
        """An address is confirmed by several servers."""
        now = trio.current_time()
        return any(self._known.is_reachable(address, now) for address in self._known.said)

    def addresses(self) -> list[AddressReachability]:
        """Every address that the node listens on, tells or is being checked for, and how it stands."""
        own = f"/p2p/{self._host.peer_id}"
        relayed = set(self._host.relay_addresses())
        texts = [*self._host.listen_addresses(), *self._host.announced_addresses()]
        texts += [address + own for address in self._candidates()]
        return [self._state(text, relayed=text in relayed) for text in dict.fromkeys(texts)]

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"checkedAddresses": (len(self._known.said), MAX_ADDRESSES)}

    def _state(self, text: str, *, relayed: bool) -> AddressReachability:
        if relayed:
            return AddressReachability(address=text, state="relayed")
        bare = text.rpartition("/p2p/")[0]
        checked = self._known.checked(bare)
        reachable = self._known.is_reachable(bare, trio.current_time())
        return AddressReachability(
            address=text,
            state="reachable" if reachable else "unknown",
            checked_at=int((checked + self._wall_ahead) * 1000) if checked is not None else None,
        )

    def _candidates(self) -> list[str]:
        host = self._host
        return candidates(host.announced_addresses(), host.listen_addresses(), host.observed_addresses())

    def _servers(self) -> list[_Server]:
        """Connected peers that offer it, one for each IP address."""
        found: dict[str, _Server] = {}
        for link in self._host.links():
            info = self._host.info(link.peer_id)
            if info is not None and AUTONAT in info.protocols and not link.relayed:
                ip = link.pipe.remote.host
                found.setdefault(ip, _Server(link.peer_id, ip))
        return list(found.values())

    async def _ask(self, server: _Server, address: str) -> None:
        try:
            with trio.fail_after(ASK):
                said = await dial_back(self._host, server.peer_id, address)
        except (StreamError, trio.TooSlowError) as error:
            log.debug("a server did not say", server=server.peer_id, error=str(error) or "timed out")
            return
        log.debug("dialled back", server=server.peer_id, asked=address, status=said.status, words=said.words)
        now = trio.current_time()
        if said.status == Message.OK and said.reached == address:  # it may have tried others, too
            self._known.record(address, server.ip, reached=True, now=now)
        elif said.status == Message.E_DIAL_ERROR:  # after any other it has not tried
            self._known.record(address, server.ip, reached=False, now=now)


@dataclass(frozen=True, slots=True)
class Said:
    """A server's answer. ``reached``: the address that it got through to, without peer id."""

    status: int
    words: str
    reached: str | None


async def dial_back(host: Host, server: str, address: str) -> Said:
    """Ask a connected peer to dial an address of ours. Raises `StreamError`; the caller brings the deadline."""
    peer = Message.PeerInfo(id=ID.from_base58(host.peer_id).to_bytes(), addrs=[Multiaddr(address).to_bytes()])
    question = Message(type=Message.DIAL, dial=Message.Dial(peer=peer)).SerializeToString()
    answer = Message()
    async with host.stream(server, AUTONAT) as stream:
        await stream.write(frame(question, "uvarint"))
        try:
            answer.ParseFromString(await read_message(stream, "uvarint", MAX_MESSAGE))
        except DecodeError as error:
            raise StreamError(f"its answer cannot be decoded: {error}") from error
    if answer.type != Message.DIAL_RESPONSE or not answer.HasField("dialResponse"):
        raise StreamError("its answer is none")
    response = answer.dialResponse
    return Said(response.status, printable(response.statusText), _text(response.addr))


def _text(packed: bytes) -> str | None:
    try:
        return str(parse(str(Multiaddr(packed))).bare) if packed else None
    except (AddressError, MultiaddrError, ValueError, LookupError):
        return None
