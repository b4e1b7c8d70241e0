"""Where peers are, from the host, the book and others' messages."""

from __future__ import annotations

from collections.abc import Callable

from fabstird.p2p.dht import heard
from fabstird.p2p.dht.heard import HERE, PUBLIC, Heard, Place, Scope
from fabstird.p2p.dht.messages import Peer
from fabstird.p2p.dht.server import Sender
from fabstird.p2p.host.host import Host
from fabstird.p2p.peers.book import Book
from fabstird.p2p.peers.dial_policy import Source, peer_at, refusal
from fabstird.p2p.wire.addresses import unpack
from fabstird.p2p.wire.peer_ids import to_bytes, to_text


class Whereabouts:
    """The addresses of all peers. ``may_tell`` says whether an address of ours may be sent to others."""

    def __init__(self, host: Host, book: Book, may_tell: Callable[[str], bool]) -> None:
        self.heard = Heard()
        self._host = host
        self._book = book
        self._may_tell = may_tell
        self._own_id = to_bytes(host.peer_id)

    def hear(self, peer: Peer, teller: bytes) -> bool:
        """A connected peer, or this node itself, reports another peer's addresses. Whether any of them is usable."""
        if peer.id == self._own_id:
            return False
        if teller == self._own_id:
            addresses = heard.kept(peer.addresses, HERE)
        else:
            addresses = heard.kept(peer.addresses, self.met(teller))
            source = self._source(teller)
            addresses = tuple(one for one in addresses if refusal(unpack(one), source) is None)
        if addresses:
            self.heard.hear(peer.id, addresses)
        peer_id = to_text(peer.id)
        return bool(addresses or self._host.links(peer_id) or self.heard.get(peer.id) or self._book.addresses(peer_id))

    def pin(self, peer: bytes) -> None:
        """Keep the addresses of a peer while it is in the table, whatever the book forgets."""
        packed = (heard.pack(address) for address in self._book.addresses(to_text(peer)))
        self.heard.pin(peer, (one for one in packed if one is not None))

    def addresses(self, peer: bytes) -> list[str]:
        """The addresses of a peer, with ``/p2p/``: those where it was reached, and its own claims, before others'
        reports."""
        peer_id = to_text(peer)
        texts = (heard.address_text(packed) for packed in self.heard.get(peer))
        return list(dict.fromkeys([*self._book.addresses(peer_id), *(f"{one}/p2p/{peer_id}" for one in texts if one)]))

    def packed(self, peer: bytes) -> tuple[bytes, ...]:
        """The addresses of a peer for messages: of ours those that are announced and useful, of others those that are
        known."""
        if peer == self._own_id:
            known = [address for address in self._host.announced_addresses() if self._may_tell(address)]
        else:
            known = self.addresses(peer)
        return tuple(packed for address in known if (packed := heard.pack(address)) is not None)

    def network(self, peer: bytes) -> str | None:
        """The public network of a peer: of its connection, otherwise of a reported address."""
        links = self._host.links(to_text(peer))
        if links:
            found = (self._public(link.pipe.remote.host) for link in links)
        else:
            found = (heard.public_network(packed) for packed in self.heard.get(peer))
        return next((one for one in found if one is not None), None)

    def met(self, peer: bytes) -> Place:
        """The narrowest place where a connected peer was met."""
        links = self._host.links(to_text(peer))
        places = (heard.met_at(link.pipe.remote.host, relayed=link.relayed) for link in links)
        return max(places, key=lambda place: place.scope, default=PUBLIC)

    def _source(self, peer: bytes) -> Source:
        links = self._host.links(to_text(peer))
        return peer_at(links[0].pipe.remote.host, relayed=links[0].relayed) if links else peer_at(None)

    def sender(self, peer: bytes) -> Sender:
        """A connected peer as `server` needs it."""
        networks = (heard.network_of_host(link.pipe.remote.host) for link in self._host.links(to_text(peer)))
        return Sender(peer, next((one for one in networks if one is not None), None), self.met(peer))

    @staticmethod
    def _public(host: str) -> str | None:
        return heard.network_of_host(host) if heard.scope_of_host(host) is Scope.PUBLIC else None
