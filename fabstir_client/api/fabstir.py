"""The Fabstir scheme on top of the DHT: ``fabstir.announce`` and ``fabstir.discover``. See `types`.

A node provides the key ``capability:<name>`` (the Fabstir node's) and the sha2-256 multihash of
``llm-inference/<name>`` (the TypeScript SDK's), and stores a JSON object of its choice under ``metadata:<peer id>``.
The fields of that object that are understood have the SDK's names: ``models``, ``pricePerToken`` and ``reputation``, at
the top level or under ``capabilities``. Prices are integers of any size, as text.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fabstir_client.api.types import Params, Record, words


class AnnounceParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("metadata",)
    capabilities: list[str]  # such as names of models
    metadata: dict[str, Any] | None = None  # any JSON object, which other nodes can read
    timeout: int | None = None  # ms for each record


class WithdrawParams(Params, frozen=True):
    capabilities: list[str]  # names of announced capabilities


class DiscoverFilters(Params, frozen=True):
    """A node must match all given filters. A node whose price, latency or reputation is unknown does not match a filter
    on it."""

    max_price: str | None = None  # an integer in decimal digits
    max_latency: float | None = None  # ms, as measured by this node
    min_reputation: float | None = None  # as the node states it
    preferred_nodes: list[str] | None = None  # peer ids to list first, in this order
    exclude_nodes: list[str] | None = None  # peer ids to leave out


class DiscoverParams(Params, frozen=True):
    model: str  # the name of a capability
    filters: DiscoverFilters | None = None  # which nodes to return, and which to list first
    force_refresh: bool | None = None  # search even if a result is cached
    timeout: int | None = None  # ms


class AnnouncedKey(Record, frozen=True):
    capability: str  # its name
    scheme: Annotated[str, words("fabstir", "sdk")]  # which of the two keys
    key: str  # base64
    sent: int  # number of peers to which the record was sent
    confirmed: int  # how many of them have it, as a query showed


class Announced(Record, frozen=True):
    peer_id: str
    keys: list[AnnouncedKey]  # two for each capability
    stored: int | None = None  # number of peers that accepted the metadata; left out if none was given


class Withdrawn(Record, frozen=True):
    capabilities: list[str]  # names that are no longer announced
    metadata: bool  # whether the metadata was withdrawn too, because no capability is left


class FabstirNode(Record, frozen=True):
    peer_id: str
    addresses: list[str]
    preferred: bool  # whether the filters prefer it
    by_owner: bool  # whether the node itself has returned the metadata
    models: list[str]  # from its metadata
    latency: float | None = None  # ms, measured if it is connected
    reputation: float | None = None  # from its metadata
    price_per_token: str | None = None  # from its metadata, decimal digits
    metadata: dict[str, Any] | None = None  # the complete metadata; left out if none was found


class Discovered(Record, frozen=True):
    model: str  # the requested model
    nodes: list[FabstirNode]  # preferred ones, then by reputation, latency and price
    age: int  # ms since the search
    cached: bool  # whether it comes from the cache
    filtered: int  # number of nodes that the filters left out
    malformed: int  # number of nodes skipped because their metadata is malformed
    complete: bool  # false if the deadline ended the search
