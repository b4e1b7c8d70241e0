"""What users ask of the DHT: find peers, providers and values; provide and put; and to announce again what they did.

Parameters are texts; every one that is wrong is an `InvalidParams` that names it. Every call has a deadline in ms; what
was found by then is returned as incomplete, and nothing at all is `DeadlineExceeded`.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter

import trio

from fabstir_client.errors import InvalidParams, PeerNotFound, TooLarge
from fabstir_client.types_dht import (
    DhtStatus,
    Forgotten,
    FoundPeer,
    FoundProviders,
    FoundValue,
    KeptRecord,
    Provided,
    Provider,
    ProviderFound,
    StoredValue,
    ValueFound,
)
from fabstird.events import EventLog
from fabstird.p2p.addresses import AddressError, normal_peer_id
from fabstird.p2p.book import Book
from fabstird.p2p.dht import keys
from fabstird.p2p.dht.announcing import Announcer
from fabstird.p2p.dht.engine import AskFailed, Engine, to_address, to_bytes, to_text
from fabstird.p2p.dht.kept import AGAIN, Entry
from fabstird.p2p.dht.keys import BadKey, Encoding
from fabstird.p2p.dht.messages import Kind, Message, Peer
from fabstird.p2p.dht.records import Refused, validate
from fabstird.p2p.dht.searches import Searches
from fabstird.p2p.streams import from_base64, to_base64

MAX_COUNT = 1000  # providers of one answer
COUNT = 20
QUORUM = 4
OWNER_GRACE = 3.0  # seconds by which the owner of a value may be later than the others who hold it


class DhtCommands:
    """``default`` (ms) is the deadline of a call that brings none."""

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
        if engine.host.links(peer_id) and (known := engine.known_addresses(target)):
            return FoundPeer(peer_id=peer_id, addresses=known, connected=True, asked=0)
        asked = 0
        learned: list[str] = []

        def take(_: bytes, answer: Message) -> bool:
            nonlocal asked
            asked += 1
            # One that dialled us a moment ago has not told its own addresses yet: others know them
            told = [one for one in answer.closer if one.id == target]
            bare = [address for one in told for address in map(to_address, one.addresses) if address]
            learned.extend(f"{address}/p2p/{peer_id}" for address in bare)
            return bool(learned)

        with self._searches.within(timeout) as scope:
            await engine.walk(target, Message(Kind.FIND_NODE, target), take)
        found = engine.known_addresses(target) or list(dict.fromkeys(learned))
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
        """Providers, each told as an event when it is found. Raises `DeadlineExceeded` where none was."""
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
        """How many peers were asked, whether the search came to its end, and the addresses of each provider. Without
        ``query_id`` no events tell of it."""
        engine = self.engine
        found: dict[bytes, list[str]] = {}
        asked = 0

        def learn(providers: list[Peer], *, local: bool) -> bool:
            for one in providers:
                if one.id in found or len(found) >= wanted:
                    continue
                engine.hint(one, local=local)
                own = one.id == engine.own_id
                found[one.id] = engine.host.announced_addresses() if own else engine.known_addresses(one.id)
                if query_id is not None:
                    self._events.publish(
                        ProviderFound(
                            query_id=query_id, key=to_base64(key), peer_id=to_text(one.id), addresses=found[one.id]
                        )
                    )
            return len(found) >= wanted

        def take(peer: bytes, answer: Message) -> bool:
            nonlocal asked
            asked += 1
            return learn(list(answer.providers), local=engine.is_local(peer))

        held = engine.providers.get(key, time.time())
        own = [Peer(engine.own_id)] if engine.kept.provides(key) else []
        with self._searches.within(timeout) as scope:
            if not learn([*own, *held], local=True):
                await engine.walk(key, Message(Kind.GET_PROVIDERS, key), take)
        return asked, not scope.cancelled_caught, found

    async def get_value(
        self, text: str, encoding: Encoding, quorum: int | None, timeout: int | None, query_id: str | None
    ) -> FoundValue:
        """The value that its owner gives, else the one that most peers give. Raises `DeadlineExceeded` where there was
        none by then."""
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
    ) -> tuple[Answers, bool]:
        """What peers answer, and whether the search came to its end. The owner of the value, where the key names one,
        is asked itself, beside the others. Without ``query_id`` no events tell of it."""
        engine = self.engine
        answers = Answers(keys.owner(key))

        def take(peer: bytes, answer: Message) -> bool:
            answers.asked += 1
            record = answer.record
            if record is None or record.key != key or len(record.value) > engine.settings.max_value_bytes:
                return False
            try:
                validate(key, record.value)
            except Refused:
                return False  # it holds what it must not
            answers.values[peer] = record.value
            if query_id is not None:
                self._events.publish(
                    ValueFound(query_id=query_id, key=to_base64(key), peer_id=to_text(peer), size=len(record.value))
                )
            return answers.of_owner is not None or answers.most >= quorum

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
                        take(owner, await engine.ask(owner, message))
                    except AskFailed:
                        pass  # the others may hold it for it
                    heard.set()
                    if answers.of_owner is not None:
                        nursery.cancel_scope.cancel()

                if answers.owner is not None and engine.known_addresses(answers.owner):
                    nursery.start_soon(ask_owner, answers.owner)
                else:
                    heard.set()
                await engine.walk(key, message, take)
                with trio.move_on_after(OWNER_GRACE if answers.values else math.inf):
                    await heard.wait()
                nursery.cancel_scope.cancel()
        return answers, not scope.cancelled_caught

    async def put_value(self, text: str, value: str, encoding: Encoding, timeout: int | None) -> StoredValue:
        """Put a value to the peers closest to its key, now and every twelve hours. Raises `TooLarge`,
        `InvalidParams` where the key's namespace does not allow it, `InvalidState` where it cannot be saved, or the
        peer that the key names has put another one."""
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
        """Tell the peers closest to a key that this node provides it, now and every twelve hours; and look whether they
        know. Raises `InvalidState` where it cannot be saved."""
        key = _key(text, encoding)
        if len(key) > keys.MAX_PROVIDED:
            raise InvalidParams(f"key: of {len(key)} bytes is too long; {keys.MAX_PROVIDED} are taken", param="key")
        return await self.announcer.provide(key, timeout)

    async def forget(self, text: str, encoding: Encoding) -> Forgotten:
        """Announce a key, and a value under it, no more. What others hold they forget by themselves, after 48 hours at
        most."""
        key = _key(text, encoding)
        gone = await self.announcer.forget(key)
        return Forgotten(
            key=to_base64(key),
            provided=any(entry.value is None for entry in gone),
            value=any(entry.value is not None for entry in gone),
        )

    def limit(self, timeout: int | None) -> int:
        """The deadline of a call, ms."""
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


class Answers:
    """The values that peers gave, and whose word counts most."""

    def __init__(self, owner: bytes | None) -> None:
        self.owner = owner
        self.asked = 0
        self.values: dict[bytes, bytes] = {}

    @property
    def of_owner(self) -> bytes | None:
        """What the owner itself gave."""
        return self.values.get(self.owner) if self.owner is not None else None

    @property
    def most(self) -> int:
        """How many peers gave the value that most gave."""
        return max(Counter(self.values.values()).values(), default=0)

    @property
    def best(self) -> bytes | None:
        """The owner's, else the one that most peers gave, the first of these where several are equal."""
        if self.of_owner is not None:
            return self.of_owner
        return next(iter([value for value, _ in Counter(self.values.values()).most_common(1)]), None)


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
