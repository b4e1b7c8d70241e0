"""Announcing: what users provide and put is kept in the data directory, told to the closest peers, and told again.

Telling that we provide a key is not answered, by the specification; those that were told are asked whether they know.
rust-libp2p never names whoever asks it, so that what it was told cannot be confirmed from here.
"""

from __future__ import annotations

import time

import trio

from fabstir_client.errors import InvalidState, LimitExceeded
from fabstir_client.types_dht import Provided, StoredValue
from fabstird.log import get_logger
from fabstird.p2p.dht.engine import AskFailed, Engine, to_text
from fabstird.p2p.dht.kept import MAX_KEPT, Entry, KeptFull
from fabstird.p2p.dht.messages import Kind, Message, Peer, Record
from fabstird.p2p.dht.records import Refused
from fabstird.p2p.dht.searches import Searches
from fabstird.p2p.streams import to_base64

log = get_logger("p2p.dht")

CHECKS = (0.0, 0.2, 1.0)  # seconds before each look whether a record has arrived: telling and asking are two streams
ANNOUNCE = 60.0  # seconds for announcing one record again


class Announcer:
    """For one run of the node."""

    def __init__(self, engine: Engine, searches: Searches) -> None:
        self.engine = engine
        self._searches = searches
        self._saving = trio.Lock()

    async def provide(self, key: bytes, timeout: int | None) -> Provided:
        """Raises `LimitExceeded`, `InvalidState` where it cannot be saved, `DeadlineExceeded`."""
        entry = await self._keep(key, None)
        result, late = await self._provide(entry, timeout)
        if late and not result.sent:
            raise self._searches.late("no peer was told", timeout)
        return result

    async def put(self, key: bytes, value: bytes, timeout: int | None) -> StoredValue:
        """Raises as `provide` does, and `InvalidState` where the owner of the key has put another value here."""
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
        """Announce nothing under this key any more; what was. Raises `InvalidState`."""
        gone = self.engine.kept.forget(key)
        if gone:
            await self._saved()
        return gone

    async def republish(self) -> None:
        """Announce again what is due; what no peer took is tried again at the next occasion."""
        for entry in self.engine.kept.due():
            timeout = int(ANNOUNCE * 1000)
            try:
                if entry.value is None:
                    await self._provide(entry, timeout)
                else:
                    await self._put(entry, timeout)
            except (LimitExceeded, Refused) as error:
                log.warning("a record was not announced again", key=to_base64(entry.key), error=str(error))

    async def _put(self, entry: Entry, timeout: int | None) -> tuple[StoredValue, bool]:
        """Store it at the closest peers; the result, and whether the deadline cut it off."""
        engine = self.engine
        assert entry.value is not None
        key, value, now = entry.key, entry.value, time.time()
        engine.values.put(key, value, engine.own_id, now)
        message = Message(Kind.PUT_VALUE, key, Record(key, value))
        stored, asked = 0, 0
        failures: dict[str, str] = {}

        async def one(peer: bytes) -> None:
            nonlocal stored
            try:
                answer = await engine.ask(peer, message)
            except AskFailed as error:
                failures[to_text(peer)] = str(error)
                return
            if answer.record is not None and answer.record.value == value:
                stored += 1
            else:
                failures[to_text(peer)] = "it answered with another value"

        with self._searches.within(timeout) as scope:
            lookup = await engine.walk(key, Message(Kind.FIND_NODE, key), lambda _, __: False)
            asked = lookup.asked
            async with trio.open_nursery() as nursery:
                for peer in lookup.closest():
                    nursery.start_soon(one, peer)
        if stored:
            engine.kept.announced(entry)
            await self._save()
        return StoredValue(
            key=to_base64(key), stored=stored, asked=asked, complete=not scope.cancelled_caught, failures=failures
        ), scope.cancelled_caught

    async def _provide(self, entry: Entry, timeout: int | None) -> tuple[Provided, bool]:
        engine = self.engine
        own = Peer(engine.own_id, engine.addresses(engine.own_id))
        message = Message(Kind.ADD_PROVIDER, entry.key, providers=(own,))
        told: set[bytes] = set()
        confirmed: set[bytes] = set()
        failures: dict[str, str] = {}
        asked = 0

        async def tell(peer: bytes) -> None:
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
                if any(one.id == engine.own_id for one in answer.providers):
                    confirmed.add(peer)

        with self._searches.within(timeout) as scope:
            lookup = await engine.walk(entry.key, Message(Kind.FIND_NODE, entry.key), lambda _, __: False)
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
        if told:
            engine.kept.announced(entry)
            await self._save()
        return Provided(
            key=to_base64(entry.key),
            sent=len(told),
            confirmed=len(confirmed),
            asked=asked,
            complete=not scope.cancelled_caught,
            failures=failures,
        ), scope.cancelled_caught

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
        """What must survive a crash is on the disk before the call is answered. Raises `InvalidState`."""
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
            await trio.to_thread.run_sync(self.engine.kept.save)
