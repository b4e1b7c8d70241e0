"""Announcing and discovering by the Fabstir scheme: `fabstir` decides, the DHT asks. Answers are remembered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from fabstir_client.errors import InvalidParams, TooLarge
from fabstir_client.types_fabstir import (
    Announced,
    AnnouncedKey,
    Discovered,
    DiscoverFilters,
    FabstirNode,
    Withdrawn,
)
from fabstird.p2p.addresses import AddressError, normal_peer_id
from fabstird.p2p.dht import keys
from fabstird.p2p.dht.commands import DhtCommands
from fabstird.p2p.dht.engine import to_text
from fabstird.p2p.fabstir import (
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
from fabstird.p2p.streams import to_base64

MAX_CAPABILITIES = 64  # announced by one call
MAX_NODES = 64  # of one model
AT_A_TIME = 8  # records that are announced, or metadata that is read
QUORUM = 2  # peers with the same metadata, where its owner is not there to say
REMEMBERED = 300.0  # seconds; the SDK's cacheTTL
MAX_REMEMBERED = 256  # models


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search found, before any filter. ``at`` is by trio's clock."""

    candidates: tuple[Candidate, ...]
    malformed: int
    complete: bool
    at: float


class Market:
    """For one run of the node."""

    def __init__(self, dht: DhtCommands) -> None:
        self._dht = dht
        self._remembered: OrderedDict[str, _Found] = OrderedDict()

    # ----------------------------------------------------------------------------------------------------------------
    # Announcing

    async def announce(
        self, capabilities: list[str], metadata: dict[str, Any] | None, timeout: int | None
    ) -> Announced:
        """Raises `InvalidParams`, `TooLarge`, `LimitExceeded`, `InvalidState`, `DeadlineExceeded`."""
        names = _names(capabilities)
        host = self._dht.engine.host
        value = _encoded(metadata, names, host.peer_id, self._dht.engine.settings.max_value_bytes)
        slots = trio.CapacityLimiter(AT_A_TIME)
        told: dict[tuple[str, str], AnnouncedKey] = {}
        stored: int | None = None
        failures: list[Exception] = []

        async def provide(name: str, scheme: str, key: bytes) -> None:
            async with slots:
                result = await self._dht.announcer.provide(key, timeout)
            told[name, scheme] = AnnouncedKey(
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
            for name in names:
                for scheme, key in _keys(name).items():
                    nursery.start_soon(carefully, provide, name, scheme, key)
        if failures:
            raise failures[0]
        ordered = [told[name, scheme] for name in names for scheme in _keys(name)]
        return Announced(peer_id=host.peer_id, keys=ordered, stored=stored)

    async def withdraw(self, capabilities: list[str]) -> Withdrawn:
        """Announce them no more; and the metadata, where no capability is left. Raises `InvalidParams`,
        `InvalidState`."""
        gone = []
        for name in _names(capabilities):
            dropped = [await self._dht.announcer.forget(key) for key in _keys(name).values()]
            if any(dropped):
                gone.append(name)
        engine = self._dht.engine
        left = any(entry.value is None and entry.key.startswith(b"capability:") for entry in engine.kept.all())
        metadata = [] if left else await self._dht.announcer.forget(metadata_key(engine.host.peer_id))
        return Withdrawn(capabilities=gone, metadata=bool(metadata))

    # ----------------------------------------------------------------------------------------------------------------
    # Discovering

    async def discover(
        self, model: str, filters: DiscoverFilters | None, force: bool, timeout: int | None
    ) -> Discovered:
        """Raises `InvalidParams`, `LimitExceeded`."""
        [name] = _names([model], "model")
        wanted = _filters(filters or DiscoverFilters())
        found = self._remembered.get(name)
        cached = not force and found is not None and found.at + REMEMBERED > trio.current_time()
        if found is None or not cached:
            found = await self._search(name, timeout)
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
        """The providers under either key, and the metadata of each. Half of the time is for finding them."""
        dht = self._dht
        limit = dht.limit(timeout)
        providers: dict[bytes, list[str]] = {}
        complete = True

        async def under(key: bytes) -> None:
            nonlocal complete
            _, whole, found = await dht.search_providers(key, MAX_NODES, limit // 2, None)
            complete = complete and whole
            providers.update(found)

        async with trio.open_nursery() as nursery:
            for key in _keys(name).values():
                nursery.start_soon(under, key)
        found: list[Candidate] = []
        malformed = 0
        slots = trio.CapacityLimiter(AT_A_TIME)

        async def ask(peer: bytes, addresses: list[str]) -> None:
            nonlocal malformed, complete
            peer_id = to_text(peer)
            async with slots:
                answers, whole = await dht.search_value(metadata_key(peer_id), QUORUM, limit // 2, None)
            complete = complete and whole
            metadata: Metadata | None = None
            if answers.best is not None:
                try:
                    metadata = read(answers.best, peer_id, name)
                except Malformed:
                    malformed += 1
                    return
            by_owner = answers.of_owner is not None
            found.append(Candidate(peer_id, tuple(addresses), metadata, by_owner, None))

        with trio.move_on_after(limit / 2000) as scope:
            async with trio.open_nursery() as nursery:
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
        latencies = [link.latency for link in links if link.latency is not None]
        return Candidate(one.peer_id, one.addresses, one.metadata, one.by_owner, min(latencies, default=None))

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"discoveries": (len(self._remembered), MAX_REMEMBERED)}


def _keys(name: str) -> dict[str, bytes]:
    found = provider_keys(name)
    return {**found, "sdk": keys.multihash(found["sdk"])}


def _names(given: list[str], param: str = "capabilities") -> list[str]:
    """Raises `InvalidParams`."""
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
    """Raises `InvalidParams` for metadata that a reader would refuse, `TooLarge`."""
    if metadata is None:
        return None
    value = msgspec.json.encode(metadata)
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
