"""The DHT's API: find peers, providers and values; provide and put; stop announcing.

Parameters are texts; a wrong one raises `InvalidParams`, which names it. Every call has a deadline in ms. What was
found by then is returned as incomplete; where nothing was, `DeadlineExceeded` is raised.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Set

import trio

from fabstir_client.api.dht import (
    Bucket,
    DhtRouting,
    DhtStatus,
    Forgotten,
    FoundPeer,
    FoundProviders,
    FoundValue,
    KeptRecord,
    Provided,
    Provider,
    ProviderFound,
    RoutingPeer,
    StoredValue,
    ValueFound,
)
from fabstir_client.api.errors import InvalidParams, PeerNotFound, TooLarge
from fabstird.events import EventLog
from fabstird.p2p.base64_text import from_base64, to_base64
from fabstird.p2p.dht import heard, keys
from fabstird.p2p.dht.announcing import Announcer
from fabstird.p2p.dht.engine import AskFailed, Engine
from fabstird.p2p.dht.findings import FoundProviders as Findings
from fabstird.p2p.dht.findings import FoundValues
from fabstird.p2p.dht.holders import AGAIN
from fabstird.p2p.dht.keys import BadKey, Encoding
from fabstird.p2p.dht.lookup import Lookup
from fabstird.p2p.dht.messages import Kind, Message, Peer
from fabstird.p2p.dht.republish_store import Entry
from fabstird.p2p.dht.routing import Seen
from fabstird.p2p.dht.searches import Searches
from fabstird.p2p.dht.values import Refused, validate
from fabstird.p2p.peers.book import Book
from fabstird.p2p.wire.addresses import AddressError, normal_peer_id
from fabstird.p2p.wire.peer_ids import to_bytes, to_text

MAX_COUNT = 1000  # providers in one answer
COUNT = 20
QUORUM = 4
OWNER_GRACE = 3.0  # seconds that a value's owner may take longer than other holders


class DhtCommands:
    """``default`` (ms) is the deadline of a call that sets none."""

    def __init__(self, engine: Engine, book: Book, events: EventLog, default: int) -> None:
        self.engine = engine
        self._book = book
        self._events = events
        self._searches = Searches(default)
        self.announcer = Announcer(engine, self._searches)

    # ----------------------------------------------------------------------------------------------------------------
    # Finding

    async def find_peer(self, peer: str, timeout: int | None) -> FoundPeer:
        """Raises `PeerNotFound`, `DeadlineExceeded`."""
        try:
            peer_id = normal_peer_id(peer)
        except AddressError as error:
            raise InvalidParams(f"peerId: {error}", param="peerId") from error
        target = to_bytes(peer_id)
        engine = self.engine
        if target == engine.own_id:
            raise InvalidParams(f"peerId: {peer_id} is this node itself", param="peerId")
        if engine.host.links(peer_id) and (known := engine.where.addresses(target)):
            return FoundPeer(peer_id=peer_id, addresses=known, connected=True, asked=0)
        asked = 0
        learned: list[str] = []

        def take(_: bytes, answer: Message, __: Lookup) -> bool:
            nonlocal asked
            asked += 1
            # A peer that dialled us a moment ago has not sent its addresses yet, but others know them
            named = [one for one in answer.closer if one.id == target]
            bare = [address for one in named for address in map(heard.address_text, one.addresses) if address]
            learned.extend(f"{address}/p2p/{peer_id}" for address in bare)
            return bool(learned)

        with self._searches.within(timeout) as scope:
            await engine.walk(target, Message(Kind.FIND_NODE, target), take)
        found = engine.where.addresses(target) or list(dict.fromkeys(learned))
        connected = bool(engine.host.links(peer_id))
        if found or connected:
            self._book.heard(peer_id, found)
            return FoundPeer(peer_id=peer_id, addresses=found, connected=connected, asked=asked)
        if scope.cancelled_caught:
            raise self._searches.late("the peer was not found", timeout)
        raise PeerNotFound(f"{peer_id} was not found: {asked} peers of the DHT were asked", peerId=peer_id)

    async def find_providers(
        self, text: str, encoding: Encoding, count: int | None, timeout: int | None, query_id: str | None
    ) -> FoundProviders:
        """Find providers, each published as an event when found. Raises `DeadlineExceeded` where none was found."""
        if count is not None and not 1 <= count <= MAX_COUNT:
            raise InvalidParams(f"count: must be 1 to {MAX_COUNT}, not {count}", param="count")
        key = _key(text, encoding)
        query_id = _query_id(query_id)
        wanted = count or COUNT
        asked, complete, found = await self.search_providers(key, wanted, timeout, query_id)
        if not found and not complete:
            raise self._searches.late("no provider was found", timeout)
        return FoundProviders(
            query_id=query_id,
            key=to_base64(key),
            providers=[Provider(peer_id=to_text(peer), addresses=known) for peer, known in found.items()],
            asked=asked,
            complete=complete,
        )

    async def search_providers(
        self, key: bytes, wanted: int, timeout: int | None, query_id: str | None
    ) -> tuple[int, bool, dict[bytes, list[str]]]:
        """Search providers of a key. Without ``query_id`` no events are published.

        Returns:
            How many peers were asked, whether the search was complete, and the addresses of each provider.
        """
        engine = self.engine
        findings = Findings(wanted)
        found: dict[bytes, list[str]] = {}
        asked = 0

        def tell(provider: bytes) -> None:
            own = provider == engine.own_id
            found[provider] = engine.host.announced_addresses() if own else engine.where.addresses(provider)
            if query_id is not None:
                self._events.publish(
                    ProviderFound(
                        query_id=query_id, key=to_base64(key), peer_id=to_text(provider), addresses=found[provider]
                    )
                )

        def learn(answerer: bytes, providers: list[Peer]) -> None:
            for one in providers:
                engine.where.hear(one, answerer)
            for provider in findings.learn(answerer, [one.id for one in providers]):
                tell(provider)

        def take(peer: bytes, answer: Message, lookup: Lookup) -> bool:
            nonlocal asked
            asked += 1
            learn(peer, list(answer.providers))
            return findings.enough(lookup.near())

        held = engine.providers.get(key, time.time(), wanted)
        own = [Peer(engine.own_id)] if engine.kept.provides(key) else []
        with self._searches.within(timeout) as scope:
            learn(engine.own_id, [*own, *held])
            await engine.walk(key, Message(Kind.GET_PROVIDERS, key), take)
        result = findings.result()
        for provider in result:
            if provider not in found:
                tell(provider)
        return asked, not scope.cancelled_caught, {provider: found[provider] for provider in result}

    async def get_value(
        self, text: str, encoding: Encoding, quorum: int | None, timeout: int | None, query_id: str | None
    ) -> FoundValue:
        """The value from its owner, otherwise the one that most peers return. Raises `DeadlineExceeded` where there was
        none in time."""
        if quorum is not None and not 1 <= quorum <= MAX_COUNT:
            raise InvalidParams(f"quorum: must be 1 to {MAX_COUNT}, not {quorum}", param="quorum")
        key = _key(text, encoding)
        query_id = _query_id(query_id)
        answers, complete = await self.search_value(key, quorum or QUORUM, timeout, query_id)
        value = answers.best
        if value is None and not complete:
            raise self._searches.late("no value was found", timeout)
        same = sum(one == value for one in answers.values.values())
        return FoundValue(
            query_id=query_id,
            key=to_base64(key),
            found=value is not None,
            asked=answers.asked,
            answers=same,
            others=len(answers.values) - same,
            complete=complete,
            by_owner=answers.of_owner is not None,
            value=to_base64(value) if value is not None else None,
        )

    async def search_value(
        self, key: bytes, quorum: int, timeout: int | None, query_id: str | None
    ) -> tuple[FoundValues, bool]:
        """Search a value. If the key names an owner, that peer is asked directly as well. Without ``query_id`` no
        events are published.

        Returns:
            What peers answered, and whether the search was complete.
        """
        engine = self.engine
        answers = FoundValues(keys.owner(key), quorum)

        def take(peer: bytes, answer: Message, near: Set[bytes]) -> bool:
            answers.asked += 1
            record = answer.record
            if record is None or record.key != key or len(record.value) > engine.settings.max_value_bytes:
                return False
            try:
                validate(key, record.value)
            except Refused:
                return False  # it holds an invalid value
            answers.values[peer] = record.value
            if query_id is not None:
                self._events.publish(
                    ValueFound(query_id=query_id, key=to_base64(key), peer_id=to_text(peer), size=len(record.value))
                )
            return answers.enough(near)

        message = Message(Kind.GET_VALUE, key)
        held = engine.values.get(key, time.time())
        if held is not None:
            answers.values[engine.own_id] = held.value
        with self._searches.within(timeout) as scope:
            if answers.of_owner is not None:
                return answers, True
            async with trio.open_nursery() as nursery:
                heard = trio.Event()

                async def ask_owner(owner: bytes) -> None:
                    try:
                        take(owner, await engine.ask(owner, message), frozenset())
                    except AskFailed:
                        pass  # others may hold it
                    heard.set()
                    if answers.of_owner is not None:
                        nursery.cancel_scope.cancel()

                if answers.owner is not None and engine.where.addresses(answers.owner):
                    nursery.start_soon(ask_owner, answers.owner)
                else:
                    heard.set()
                await engine.walk(key, message, lambda peer, answer, lookup: take(peer, answer, lookup.near()))
                with trio.move_on_after(OWNER_GRACE if answers.values else math.inf):
                    await heard.wait()
                nursery.cancel_scope.cancel()
        return answers, not scope.cancelled_caught

    async def put_value(self, text: str, value: str, encoding: Encoding, timeout: int | None) -> StoredValue:
        """Put a value to the peers closest to its key, now and every twelve hours.

        Raises:
            TooLarge: The value is too long.
            InvalidParams: The namespace of the key does not allow it.
            InvalidState: It cannot be saved, or the peer that the key names has put another one.
        """
        key, data = _key(text, encoding), from_base64(value, "value")
        limit = self.engine.settings.max_value_bytes
        if len(data) > limit:
            raise TooLarge(
                f"value: {len(data)} bytes; {limit} are taken at most",
                limit=limit,
                current=len(data),
                configKey="dht.max_value_bytes",
            )
        try:
            validate(key, data)
        except Refused as error:
            raise InvalidParams(f"value: {error}", param="value") from error
        return await self.announcer.put(key, data, timeout)

    async def provide(self, text: str, encoding: Encoding, timeout: int | None) -> Provided:
        """Announce to the peers closest to a key that this node provides it, now and every twelve hours, and check
        whether they know. Raises `InvalidState` where it cannot be saved."""
        key = _key(text, encoding)
        if len(key) > keys.MAX_PROVIDED:
            raise InvalidParams(f"key: of {len(key)} bytes is too long; {keys.MAX_PROVIDED} are taken", param="key")
        return await self.announcer.provide(key, timeout)

    async def forget(self, text: str, encoding: Encoding) -> Forgotten:
        """Stop announcing a key, and its value. Other peers drop their copies after 48 hours at most."""
        key = _key(text, encoding)
        gone = await self.announcer.forget(key)
        return Forgotten(
            key=to_base64(key),
            provided=any(entry.value is None for entry in gone),
            value=any(entry.value is not None for entry in gone),
        )

    def limit(self, timeout: int | None) -> int:
        """The deadline of a call, in ms."""
        return self._searches.limit(timeout)

    # ----------------------------------------------------------------------------------------------------------------
    # How it stands

    def status(self) -> DhtStatus:
        engine = self.engine
        return DhtStatus(
            mode=engine.mode,
            peers=len(engine.table),
            values=len(engine.values),
            provided_keys=len(engine.providers),
            lookups=engine.lookups,
            asked=engine.asked,
            failed=engine.failed,
            answered=dict(engine.server.answered),
            refused=engine.server.refused,
            malformed=engine.malformed,
            kept=[_kept_record(entry) for entry in engine.kept.all()],
        )

    def routing(self) -> DhtRouting:
        engine = self.engine
        behind = time.time() - trio.current_time()
        buckets = [
            Bucket(shared_bits=shared, peers=[self._routing_peer(one, behind) for one in peers])
            for shared, peers in engine.table.buckets()
        ]
        return DhtRouting(peers=len(engine.table), buckets=buckets)

    def _routing_peer(self, seen: Seen, behind: float) -> RoutingPeer:
        peer_id = to_text(seen.peer)
        return RoutingPeer(
            peer_id=peer_id,
            connected=bool(self.engine.host.links(peer_id)),
            heard=int((seen.heard + behind) * 1000),
            suspect=seen.suspect,
            network=seen.network,
        )


def _kept_record(entry: Entry) -> KeptRecord:
    announced = int(entry.announced * 1000) or None
    return KeptRecord(
        key=to_base64(entry.key),
        provided=entry.value is None,
        announced=announced,
        next=announced + int(AGAIN * 1000) if announced else None,
    )


def _key(text: str, encoding: Encoding) -> bytes:
    try:
        return keys.parse(text, encoding)
    except BadKey as error:
        raise InvalidParams(f"key: {error}", param="key") from error


def _query_id(given: str | None) -> str:
    if given is None:
        return secrets.token_hex(8)
    if not 0 < len(given) <= 64 or not given.isprintable():
        raise InvalidParams("queryId: must be 1 to 64 printable characters", param="queryId")
    return given
