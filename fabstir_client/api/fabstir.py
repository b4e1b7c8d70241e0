"""The Fabstir scheme on top of the DHT: ``fabstir.announce`` and ``fabstir.discover``. See `types`.

A node provides the key ``capability:<name>`` (the Fabstir node's) and the sha2-256 multihash of
``llm-inference/<name>`` (the TypeScript SDK's), and puts JSON of its choice under ``metadata:<peer id>``. Fields of it
that are known have the SDK's names: ``models`` ``pricePerToken`` ``reputation``, at the top or under ``capabilities``.
Prices are integers of any size, as text.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fabstir_client.api.types import Params, Record, words


class AnnounceParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("metadata",)
    capabilities: list[str]  # names, such as of models
    metadata: dict[str, Any] | None = None  # what others see of this node: any JSON object
    timeout: int | None = None  # ms, of each record


class WithdrawParams(Params, frozen=True):
    capabilities: list[str]  # names that were announced


class DiscoverFilters(Params, frozen=True):
    """Every one that is given must hold; a node of which it is not known does not pass."""

    max_price: str | None = None  # an integer in decimal digits
    max_latency: float | None = None  # ms, as measured here
    min_reputation: float | None = None  # as the node says
    preferred_nodes: list[str] | None = None  # peer ids that come first, in this order
    exclude_nodes: list[str] | None = None  # peer ids that are left out


class DiscoverParams(Params, frozen=True):
    model: str  # the name of a capability
    filters: DiscoverFilters | None = None  # which nodes, and who comes first
    force_refresh: bool | None = None  # search even where an answer is remembered
    timeout: int | None = None  # ms


class AnnouncedKey(Record, frozen=True):
    capability: str  # its name
    scheme: Annotated[str, words("fabstir", "sdk")]  # which of the two keys
    key: str  # base64
    sent: int  # peers that were told
    confirmed: int  # of them, that were seen to have it


class Announced(Record, frozen=True):
    peer_id: str
    keys: list[AnnouncedKey]  # two of each capability
    stored: int | None = None  # peers that took the metadata; left out where none was given


class Withdrawn(Record, frozen=True):
    capabilities: list[str]  # names that are no longer announced
    metadata: bool  # the metadata went too, because no capability is left


class FabstirNode(Record, frozen=True):
    peer_id: str
    addresses: list[str]
    preferred: bool  # as the filters say
    by_owner: bool  # the metadata is the node's own word, told by itself
    models: list[str]  # as its metadata says
    latency: float | None = None  # ms, measured where it is connected
    reputation: float | None = None  # as its metadata says
    price_per_token: str | None = None  # as its metadata says, decimal digits
    metadata: dict[str, Any] | None = None  # whole; left out where none was found


class Discovered(Record, frozen=True):
    model: str  # that was asked for
    nodes: list[FabstirNode]  # preferred ones, then by reputation, latency and price
    age: int  # ms since it was searched
    cached: bool  # it was remembered, not searched now
    filtered: int  # nodes that the filters left out
    malformed: int  # nodes whose metadata is not what it should be, and that were skipped for it
    complete: bool  # false where the deadline ended the search
