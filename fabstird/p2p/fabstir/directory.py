"""Announces and discovers nodes by the Fabstir scheme: `scheme` decides, the DHT asks. Results are cached."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from fabstir_client.api.errors import InvalidParams, TooLarge
from fabstir_client.api.fabstir import (
    Announced,
    AnnouncedKey,
    Discovered,
    DiscoverFilters,
    FabstirNode,
    Withdrawn,
)
from fabstird.foreign import MAX_DEPTH
from fabstird.nursery import together
from fabstird.p2p.base64_text import to_base64
from fabstird.p2p.dht import keys
from fabstird.p2p.dht.commands import DhtCommands
from fabstird.p2p.fabstir.scheme import (
    ANY,
    MAX_NAME,
    Candidate,
    Filters,
    Malformed,
    Metadata,
    metadata_key,
    passing,
    price,
    provider_keys,
    read,
)
from fabstird.p2p.net.link import latency
from fabstird.p2p.wire.addresses import AddressError, normal_peer_id
from fabstird.p2p.wire.peer_ids import to_text

MAX_CAPABILITIES = 64  # in one call
MAX_NODES = 64  # of one model
AT_A_TIME = 8  # records announced, or metadata read, at a time
QUORUM = 2  # peers with the same metadata, where its owner cannot be asked
JOINING = 10.0  # seconds that a search waits for the first DHT peer, at most, and at most half of its time
MAX_REMEMBERED = 256  # models


@dataclass(frozen=True, slots=True)
class _Found:
    """The result of a search before any filter. ``at`` is by trio's clock."""

    candidates: tuple[Candidate, ...]
    malformed: int
    complete: bool
    at: float


class Directory:
    """The directory of one run of the node."""

    def __init__(self, dht: DhtCommands) -> None:
        self._dht = dht
        self._ttl = dht.engine.settings.discover_ttl / 1000
        self._remembered: OrderedDict[str, _Found] = OrderedDict()

    # ----------------------------------------------------------------------------------------------------------------
    # Announcing

    async def announce(
        self, capabilities: list[str], metadata: dict[str, Any] | None, timeout: int | None
    ) -> Announced:
        """Announce capabilities, and metadata if given. Raises `InvalidParams`, `TooLarge`, `LimitExceeded`,
        `InvalidState`, `DeadlineExceeded`."""
        names = _names(capabilities)
        host = self._dht.engine.host
        value = _encoded(metadata, names, host.peer_id, self._dht.engine.settings.max_value_bytes)
        slots = trio.CapacityLimiter(AT_A_TIME)
        keys: dict[tuple[str, str], AnnouncedKey] = {}
        stored: int | None = None
        failures: list[Exception] = []

        async def provide(name: str, scheme: str, key: bytes) -> None:
            async with slots:
                result = await self._dht.announcer.provide(key, timeout)
            keys[name, scheme] = AnnouncedKey(
                capability=name, scheme=scheme, key=to_base64(key), sent=result.sent, confirmed=result.confirmed
            )

        async def put() -> None:
            nonlocal stored
            if value is not None:
                async with slots:
                    stored = (await self._dht.announcer.put(metadata_key(host.peer_id), value, timeout)).stored

        async def carefully(run: Any, *arguments: Any) -> None:
            try:
                await run(*arguments)
            except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carefully, put)
            for name in dict.fromkeys((*names, ANY)):
                for scheme, key in _keys(name).items():
                    nursery.start_soon(carefully, provide, name, scheme, key)
        if failures:
            raise failures[0]
        ordered = [keys[name, scheme] for name in names for scheme in _keys(name)]
        return Announced(peer_id=host.peer_id, keys=ordered, stored=stored)

    async def withdraw(self, capabilities: list[str]) -> Withdrawn:
        """Stop announcing capabilities, and the metadata once none is left. Raises `InvalidParams`, `InvalidState`."""
        gone = []
        for name in _names(capabilities):
            dropped = [await self._dht.announcer.forget(key) for key in _keys(name).values()]
            if any(dropped):
                gone.append(name)
        engine = self._dht.engine
        of_any = _keys(ANY).values()
        provided = {entry.key for entry in engine.kept.all() if entry.value is None}
        if any(key.startswith(b"capability:") for key in provided.difference(of_any)):
            return Withdrawn(capabilities=gone, metadata=False)
        for key in of_any:
            await self._dht.announcer.forget(key)
        metadata = await self._dht.announcer.forget(metadata_key(engine.host.peer_id))
        return Withdrawn(capabilities=gone, metadata=bool(metadata))

    # ----------------------------------------------------------------------------------------------------------------
    # Discovering

    async def discover(
        self, model: str, filters: DiscoverFilters | None, force: bool, timeout: int | None
    ) -> Discovered:
        """The nodes that serve a model. Raises `InvalidParams`, `LimitExceeded`."""
        [name] = _names([model], "model")
        wanted = _filters(filters or DiscoverFilters())
        found = self._remembered.get(name)
        cached = not force and found is not None and found.at + self._ttl > trio.current_time()
        if found is None or not cached:
            found = await self._search(name, timeout)
            if found.candidates and found.complete:  # an empty or partial result is not used again
                self._remember(name, found)
        candidates = [self._measured(one) for one in found.candidates]
        nodes = passing(candidates, wanted)
        return Discovered(
            model=name,
            nodes=[_node(one, wanted) for one in nodes],
            age=int((trio.current_time() - found.at) * 1000) if cached else 0,
            cached=cached,
            filtered=len(candidates) - len(nodes),
            malformed=found.malformed,
            complete=found.complete,
        )

    async def _search(self, name: str, timeout: int | None) -> _Found:
        """Find the providers under both keys, and read the metadata of each. Half of the time is for finding them."""
        dht = self._dht
        limit = dht.limit(timeout)
        began = trio.current_time()
        due = began + limit / 1000
        if not any(dht.engine.kept.provides(key) for key in _keys(name).values()):
            await dht.engine.joined(began + min(limit / 2000, JOINING))  # an app's first call comes before any peer
        limit = max(2, limit - int((trio.current_time() - began) * 1000))
        providers: dict[bytes, list[str]] = {}
        complete = True

        async def under(key: bytes) -> None:
            nonlocal complete
            _, in_time, found = await dht.search_providers(key, MAX_NODES, limit // 2, None)
            complete = complete and in_time
            providers.update(found)

        async with together() as nursery:
            for key in _keys(name).values():
                nursery.start_soon(under, key)
        found: list[Candidate] = []
        malformed = 0
        slots = trio.CapacityLimiter(AT_A_TIME)

        async def ask(peer: bytes, addresses: list[str]) -> None:
            nonlocal malformed, complete
            peer_id = to_text(peer)
            async with slots:
                answers, in_time = await dht.search_value(metadata_key(peer_id), QUORUM, limit // 2, None)
            complete = complete and in_time
            metadata: Metadata | None = None
            if answers.best is not None:
                try:
                    metadata = read(answers.best, peer_id, name)
                except Malformed:
                    malformed += 1
                    return
            by_owner = answers.of_owner is not None
            found.append(Candidate(peer_id, tuple(addresses), metadata, by_owner, None))

        with trio.move_on_at(due) as scope:
            async with together() as nursery:
                for peer, addresses in list(providers.items())[:MAX_NODES]:
                    nursery.start_soon(ask, peer, addresses)
        complete = complete and not scope.cancelled_caught
        return _Found(tuple(found), malformed, complete, trio.current_time())

    def _remember(self, name: str, found: _Found) -> None:
        self._remembered[name] = found
        self._remembered.move_to_end(name)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _measured(self, one: Candidate) -> Candidate:
        links = self._dht.engine.host.links(one.peer_id)
        return Candidate(one.peer_id, one.addresses, one.metadata, one.by_owner, latency(links))

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"discoveries": (len(self._remembered), MAX_REMEMBERED)}


def _keys(name: str) -> dict[str, bytes]:
    found = provider_keys(name)
    return {**found, "sdk": keys.multihash(found["sdk"])}


def _names(given: list[str], param: str = "capabilities") -> list[str]:
    """Check and normalise names of capabilities. Raises `InvalidParams`."""
    names = list(dict.fromkeys(given))
    if not 1 <= len(names) <= MAX_CAPABILITIES:
        raise InvalidParams(f"{param}: 1 to {MAX_CAPABILITIES} names are needed, not {len(names)}", param=param)
    for name in names:
        if not 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME or not name.isprintable():
            raise InvalidParams(
                f'{param}: "{name[:MAX_NAME]}" must be 1 to {MAX_NAME} bytes of printable text', param=param
            )
    return names


def _encoded(metadata: dict[str, Any] | None, names: list[str], peer_id: str, limit: int) -> bytes | None:
    """The metadata as bytes. Raises `TooLarge`, `InvalidParams` where a reader would refuse it."""
    if metadata is None:
        return None
    try:
        value = msgspec.json.encode(metadata)
    except RecursionError as error:
        words = f"metadata: is nested more than {MAX_DEPTH} levels deep"
        raise InvalidParams(words, param="metadata") from error
    if len(value) > limit:
        raise TooLarge(
            f"metadata: {len(value)} bytes of JSON; {limit} are taken at most",
            limit=limit,
            current=len(value),
            configKey="dht.max_value_bytes",
        )
    for name in names:
        try:
            read(value, peer_id, name)
        except Malformed as error:
            raise InvalidParams(f"metadata: {error}", param="metadata") from error
    return value


def _filters(given: DiscoverFilters) -> Filters:
    try:
        cost = None if given.max_price is None else price(given.max_price)
    except ValueError as error:
        raise InvalidParams(f"filters.maxPrice: {error}", param="filters") from error
    return Filters(
        max_price=cost,
        max_latency=given.max_latency,
        min_reputation=given.min_reputation,
        preferred=tuple(_peer_ids("preferredNodes", given.preferred_nodes)),
        excluded=frozenset(_peer_ids("excludeNodes", given.exclude_nodes)),
    )


def _peer_ids(name: str, given: list[str] | None) -> list[str]:
    try:
        return [normal_peer_id(one) for one in given or []]
    except AddressError as error:
        raise InvalidParams(f"filters.{name}: {error}", param="filters") from error


def _node(one: Candidate, filters: Filters) -> FabstirNode:
    told = one.metadata
    return FabstirNode(
        peer_id=one.peer_id,
        addresses=list(one.addresses),
        preferred=one.peer_id in filters.preferred,
        by_owner=one.by_owner,
        models=list(told.models) if told else [],
        latency=one.latency,
        reputation=told.reputation if told else None,
        price_per_token=str(told.price) if told and told.price is not None else None,
        metadata=told.whole if told else None,
    )
