"""Announces what users provide and put: records are kept in the data directory, sent to the closest peers, and sent
again later.

A provider record is not acknowledged, by the specification, so the peers that got it are asked for it afterwards.
rust-libp2p never returns the asker as a provider, so a record there cannot be confirmed.
"""

from __future__ import annotations

import time
from random import SystemRandom

import trio

from fabstir_client.api.dht import Provided, StoredValue
from fabstir_client.api.errors import InvalidState, LimitExceeded
from fabstird.log.logger import get_logger
from fabstird.p2p.base64_text import to_base64
from fabstird.p2p.dht import heard
from fabstird.p2p.dht.engine import AskFailed, Engine
from fabstird.p2p.dht.holders import AT_A_TIME, Holders, Job
from fabstird.p2p.dht.lookup import Lookup
from fabstird.p2p.dht.messages import Kind, Message, Peer, Record
from fabstird.p2p.dht.republish_store import MAX_KEPT, Entry, KeptFull
from fabstird.p2p.dht.routing import K
from fabstird.p2p.dht.searches import Searches
from fabstird.p2p.dht.values import Refused
from fabstird.p2p.wire.peer_ids import to_text
from fabstird.threads import on_disk

log = get_logger("p2p.dht")

# seconds before each check whether a record has arrived: it is sent on one stream and asked for on another
CHECKS = (0.0, 0.2, 1.0)
WALK = 2 / 3  # part of the time for finding the closest peers
ANNOUNCE = 60.0  # seconds for announcing one record again


class Announcer:
    """Announces the records of one run of the node."""

    def __init__(self, engine: Engine, searches: Searches) -> None:
        self.engine = engine
        self._searches = searches
        self._holders = Holders(SystemRandom())
        self._saving = trio.Lock()

    async def provide(self, key: bytes, timeout: int | None) -> Provided:
        """Announce that this node provides a key. Raises `LimitExceeded`, `InvalidState` where it cannot be saved,
        `DeadlineExceeded`."""
        entry = await self._keep(key, None)
        result, late = await self._provide(entry, timeout)
        if late and not result.sent:
            raise self._searches.late("no peer was told", timeout)
        return result

    async def put(self, key: bytes, value: bytes, timeout: int | None) -> StoredValue:
        """Announce a value. Raises as `provide`, and `InvalidState` where the key's owner has put another value
        here."""
        try:
            self.engine.values.put(key, value, self.engine.own_id, time.time())
        except Refused as error:
            raise InvalidState(f"this node holds another value: {error}") from error
        entry = await self._keep(key, value)
        result, late = await self._put(entry, timeout)
        if late and not result.stored:
            raise self._searches.late("no peer has taken the value", timeout)
        return result

    async def forget(self, key: bytes) -> list[Entry]:
        """Stop announcing a key; returns its records. Raises `InvalidState`."""
        gone = self.engine.kept.forget(key)
        self.engine.values.forget(key)
        for entry in gone:
            self._holders.forget(entry.name)
        if gone:
            await self._saved()
        return gone

    async def republish(self) -> None:
        """Check who still holds the announced records, and announce again what is due or has too few holders."""
        records = {entry.name: entry for entry in self.engine.kept.all()}
        slots = trio.CapacityLimiter(AT_A_TIME)

        async def one(job: Job) -> None:
            async with slots:
                if self.engine.kept.get(job.name) is records[job.name]:  # neither forgotten nor replaced meanwhile
                    await self._again(records[job.name], job)

        dates = [(name, entry.announced) for name, entry in records.items()]
        async with trio.open_nursery() as nursery:
            for job in self._holders.due(dates, time.time(), trio.current_time()):
                nursery.start_soon(one, job)

    async def _again(self, entry: Entry, job: Job) -> None:
        try:
            if job.holders and self._holders.probed(
                job.name, trio.current_time(), await self._probe(entry, job.holders)
            ):
                return
            timeout = int(ANNOUNCE * 1000)
            if entry.value is None:
                await self._provide(entry, timeout)
            else:
                await self._put(entry, timeout)
        except (LimitExceeded, Refused) as error:
            self._holders.told(entry.name, trio.current_time(), {})
            log.warning("a record was not announced again", key=to_base64(entry.key), error=str(error))

    async def _probe(self, entry: Entry, holders: tuple[bytes, ...]) -> dict[bytes, bool]:
        """Ask peers whether they have the record. Peers that do not answer are left out."""
        answers: dict[bytes, bool] = {}
        kind = Kind.GET_PROVIDERS if entry.value is None else Kind.GET_VALUE

        async def ask(peer: bytes) -> None:
            try:
                answer = await self.engine.ask(peer, Message(kind, entry.key))
            except AskFailed:
                return
            if entry.value is None:
                # with so many providers it may know more than it returns
                answers[peer] = self._names_us(answer) or len(answer.providers) >= K
            else:
                answers[peer] = answer.record is not None and answer.record.value == entry.value

        async with trio.open_nursery() as nursery:
            for peer in holders:
                nursery.start_soon(ask, peer)
        return answers

    def _names_us(self, answer: Message) -> bool:
        return any(one.id == self.engine.own_id for one in answer.providers)

    async def _closest(self, key: bytes, timeout: int | None) -> tuple[Lookup, bool]:
        """The closest peers to a key. If the search takes too long, those that have answered by then, so that time is
        left to send them the record. Also whether it was cut off."""
        until = trio.current_time() + self._searches.limit(timeout) / 1000 * WALK
        lookup, whole = await self.engine.walk(key, Message(Kind.FIND_NODE, key), until=until)
        return lookup, not whole

    async def _put(self, entry: Entry, timeout: int | None) -> tuple[StoredValue, bool]:
        """Store a value at the closest peers. Returns the result, and whether the deadline cut it off."""
        engine = self.engine
        assert entry.value is not None
        key, value = entry.key, entry.value
        engine.values.put(key, value, engine.own_id, time.time())
        message = Message(Kind.PUT_VALUE, key, Record(key, value))
        asked, cut = 0, False
        stored: dict[bytes, bool] = {}
        failures: dict[str, str] = {}

        async def one(peer: bytes) -> None:
            try:
                answer = await engine.ask(peer, message)
            except AskFailed as error:
                failures[to_text(peer)] = str(error)
                return
            if answer.record is not None and answer.record.value == value:
                stored[peer] = True
            else:
                failures[to_text(peer)] = "it answered with another value"

        with self._searches.within(timeout) as scope:
            lookup, cut = await self._closest(key, timeout)
            asked = lookup.asked
            async with trio.open_nursery() as nursery:
                for peer in lookup.closest():
                    nursery.start_soon(one, peer)
        await self._told(entry, stored)
        complete = not (cut or scope.cancelled_caught)
        return StoredValue(
            key=to_base64(key), stored=len(stored), asked=asked, complete=complete, failures=failures
        ), not complete

    async def _provide(self, entry: Entry, timeout: int | None) -> tuple[Provided, bool]:
        engine = self.engine
        told: set[bytes] = set()
        confirmed: set[bytes] = set()
        failures: dict[str, str] = {}
        asked, cut = 0, False

        async def tell(peer: bytes) -> None:
            own = Peer(engine.own_id, heard.told(engine.where.packed(engine.own_id), engine.where.met(peer)))
            message = Message(Kind.ADD_PROVIDER, entry.key, providers=(own,))
            try:
                await engine.ask(peer, message, answers=False)
            except AskFailed as error:
                failures[to_text(peer)] = str(error)
            else:
                told.add(peer)

        async def check(peer: bytes) -> None:
            try:
                answer = await engine.ask(peer, Message(Kind.GET_PROVIDERS, entry.key))
            except AskFailed as error:
                failures[to_text(peer)] = str(error)
            else:
                if self._names_us(answer):
                    confirmed.add(peer)

        with self._searches.within(timeout) as scope:
            lookup, cut = await self._closest(entry.key, timeout)
            asked = lookup.asked
            async with trio.open_nursery() as nursery:
                for peer in lookup.closest():
                    nursery.start_soon(tell, peer)
            for pause in CHECKS:
                if told == confirmed:
                    break
                await trio.sleep(pause)
                async with trio.open_nursery() as nursery:
                    for peer in told - confirmed:
                        nursery.start_soon(check, peer)
        await self._told(entry, {peer: peer in confirmed for peer in told})
        complete = not (cut or scope.cancelled_caught)
        return Provided(
            key=to_base64(entry.key),
            sent=len(told),
            confirmed=len(confirmed),
            asked=asked,
            complete=complete,
            failures=failures,
        ), not complete

    async def _told(self, entry: Entry, holders: dict[bytes, bool]) -> None:
        self._holders.told(entry.name, trio.current_time(), holders)
        if holders:
            self.engine.kept.announced(entry)
            await self._save()

    # ------------------------------------------------------------------------------------------------------------------
    # On the disk

    async def _keep(self, key: bytes, value: bytes | None) -> Entry:
        try:
            entry = self.engine.kept.put(key, value)
        except KeptFull as error:
            raise LimitExceeded(
                f"{MAX_KEPT} records are announced already; dht.forget one",
                limit=MAX_KEPT,
                current=MAX_KEPT,
                configKey=None,
            ) from error
        await self._saved()
        return entry

    async def _saved(self) -> None:
        """Save to the disk before the call is answered, so that the record survives a crash. Raises `InvalidState`."""
        try:
            await self._write()
        except OSError as error:
            raise InvalidState(
                f"it would not survive a restart: dht.json cannot be written: {error.strerror}", saved=False
            ) from error

    async def _save(self) -> None:
        try:
            await self._write()
        except OSError as error:
            log.warning("records of the DHT could not be saved", file=str(self.engine.kept.path), error=error.strerror)

    async def _write(self) -> None:
        async with self._saving:
            await on_disk(self.engine.kept.save)
