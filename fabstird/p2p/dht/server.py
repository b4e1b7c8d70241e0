"""What this node answers other nodes of the DHT (libp2p specification, kad-dht, "RPC messages"). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from fabstird.p2p.dht.keys import owner
from fabstird.p2p.dht.messages import Kind, Message, Peer, Record
from fabstird.p2p.dht.records import Providers, Refused, Values
from fabstird.p2p.dht.routing import RoutingTable

MAX_SENT = 8  # addresses of a peer: 20 peers fit into the 16 KiB that rust-libp2p reads


class Server:
    """``addresses`` gives the addresses of a peer that we know, or our own; ``provided`` tells what this node provides
    itself."""

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

    def answer(self, sender: bytes, message: Message, now: float) -> Message | None:
        """The answer; None where the specification has none. Raises `Refused`: the stream is then reset."""
        try:
            answer = self._answer(sender, message, now)
        except Refused:
            self.refused += 1
            raise
        self.answered[message.kind.name] += 1
        return answer

    def _answer(self, sender: bytes, message: Message, now: float) -> Message | None:
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
        providers = self._providers.get(key, now)[: self._table.k]
        known = tuple(Peer(one.id, one.addresses[:MAX_SENT] or self._addresses(one.id)) for one in providers)
        own = (self._own(),) if self._provided(key) else ()
        return Message(message.kind, key, closer=self._closer(sender, key), providers=own + known)

    def _put(self, sender: bytes, message: Message, now: float) -> Message:
        record = message.record
        if record is None or record.key != message.key:
            raise Refused("a value under another key than the message's")
        self._values.put(record.key, record.value, sender, now)
        return message

    def _add_provider(self, sender: bytes, message: Message, now: float) -> None:
        # A provider speaks for itself only: the connection proves who it is
        own = [provider for provider in message.providers if provider.id == sender]
        if not own:
            raise Refused("a provider record of somebody else")
        for provider in own[:1]:
            self._providers.add(message.key, provider, now)

    def _closer(self, sender: bytes, key: bytes, *, node: bool = False) -> tuple[Peer, ...]:
        found = [peer for peer in self._table.closest(key, self._table.k + 1) if peer != sender][: self._table.k]
        if node and key == self._table.own_id:
            return (self._own(),)
        if node and key not in found and key != sender:
            found = [key, *found][: self._table.k]  # known by another way than the table: its addresses decide
        named = owner(key)
        if named is not None and named not in found and named not in (sender, self._table.own_id):
            found = [named, *found][: self._table.k]  # the owner of the value knows it best
        peers = (Peer(peer, self._addresses(peer)[:MAX_SENT]) for peer in found)
        return tuple(peer for peer in peers if peer.addresses)

    def _own(self) -> Peer:
        return Peer(self._table.own_id, self._addresses(self._table.own_id)[:MAX_SENT])


def _rfc3339(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
