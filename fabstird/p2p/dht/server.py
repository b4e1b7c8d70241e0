"""What this node answers other DHT nodes (libp2p specification, kad-dht, "RPC messages"). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fabstird.p2p.dht.heard import PUBLIC, Place, kept, told
from fabstird.p2p.dht.keys import owner
from fabstird.p2p.dht.messages import Kind, Message, Peer, Record
from fabstird.p2p.dht.providers import Providers
from fabstird.p2p.dht.routing import RoutingTable
from fabstird.p2p.dht.values import Refused, Values


@dataclass(frozen=True, slots=True)
class Sender:
    """The asking peer: its id, proven by its connection, and where it is, for limits per network and for addresses."""

    id: bytes
    network: str | None = None
    met: Place = PUBLIC


class Server:
    """Answers DHT messages. ``addresses`` returns the known addresses of a peer, or our own; ``provided`` says whether
    this node itself provides a key."""

    def __init__(
        self,
        table: RoutingTable,
        values: Values,
        providers: Providers,
        addresses: Callable[[bytes], tuple[bytes, ...]],
        provided: Callable[[bytes], bool],
    ) -> None:
        self._table = table
        self._values = values
        self._providers = providers
        self._addresses = addresses
        self._provided = provided
        self.answered: Counter[str] = Counter()  # by kind of message
        self.refused = 0

    def answer(self, sender: Sender, message: Message, now: float) -> Message | None:
        """The answer; None where the specification has none. Raises `Refused`, where the stream must be reset."""
        try:
            answer = self._answer(sender, message, now)
        except Refused:
            self.refused += 1
            raise
        self.answered[message.kind.name] += 1
        return answer

    def closer(self, sender: bytes, key: bytes, *, node: bool = False) -> list[bytes]:
        """The peers to name to an asker that looks for a key; ``node`` where the key is a peer id."""
        table = self._table
        if node and key == table.own_id:
            return [key]
        found = table.closest(key)
        if sender in found:
            found = [peer for peer in table.closest(key, table.k + 1) if peer != sender]
        if node and key not in found and key != sender:
            found = [key, *found][: table.k]  # it need not be in the table, if its addresses are known
        named = owner(key)
        if named is not None and named not in found and named not in (sender, table.own_id):
            found = [named, *found][: table.k]  # the value's owner is the best source
        return found

    def _answer(self, sender: Sender, message: Message, now: float) -> Message | None:
        key = message.key
        if message.kind is Kind.PING:
            return message
        if not key:
            raise Refused(f"{message.kind.name} without a key")
        if message.kind is Kind.FIND_NODE:
            return Message(message.kind, key, closer=self._closer(sender, key, node=True))
        if message.kind is Kind.PUT_VALUE:
            return self._put(sender, message, now)
        if message.kind is Kind.GET_VALUE:
            held = self._values.get(key, now)
            record = Record(key, held.value, _rfc3339(held.at)) if held is not None else None
            return Message(message.kind, key, record, closer=self._closer(sender, key))
        if message.kind is Kind.ADD_PROVIDER:
            self._add_provider(sender, message, now)
            return None
        providers = [self._peer(sender, self._table.own_id)] if self._provided(key) else []
        for one in self._providers.get(key, now, self._table.k - len(providers), sender.id):
            known = told(one.addresses, sender.met)
            providers.append(Peer(one.id, known) if known else self._peer(sender, one.id))
        return Message(message.kind, key, closer=self._closer(sender, key), providers=tuple(providers))

    def _put(self, sender: Sender, message: Message, now: float) -> Message:
        record = message.record
        if record is None or record.key != message.key:
            raise Refused("a value under another key than the message's")
        self._values.put(record.key, record.value, sender.id, now, sender.network)
        return message

    def _add_provider(self, sender: Sender, message: Message, now: float) -> None:
        # A provider may announce only itself: the connection proves who it is
        own = next((provider for provider in message.providers if provider.id == sender.id), None)
        if own is None:
            raise Refused("a provider record of somebody else")
        self._providers.add(message.key, Peer(own.id, kept(own.addresses, sender.met)), now, sender.network)

    def _closer(self, sender: Sender, key: bytes, *, node: bool = False) -> tuple[Peer, ...]:
        peers = (self._peer(sender, peer) for peer in self.closer(sender.id, key, node=node))
        return tuple(peer for peer in peers if peer.addresses)

    def _peer(self, sender: Sender, peer: bytes) -> Peer:
        return Peer(peer, told(self._addresses(peer), sender.met))


def _rfc3339(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
