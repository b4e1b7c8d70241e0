"""The DHT: parameters, results and events of ``dht.*``. See `types`.

A key is ``text`` (UTF-8) unless ``encoding`` is ``base64`` or ``cid``; for a CID, the key is its multihash. Results and
events give keys in base64. Values are base64.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fabstir_client.api.types import EventData, Params, Record

KeyEncoding = Literal["text", "base64", "cid"]
DhtMode = Literal["server", "client"]


class FindPeerParams(Params, frozen=True):
    peer_id: str
    timeout: int | None = None


class FindProvidersParams(Params, frozen=True):
    key: str  # in the given `encoding`
    encoding: KeyEncoding | None = None  # text if left out
    count: int | None = None  # how many providers are enough; 20 if left out
    timeout: int | None = None
    query_id: str | None = None  # identifies the search in its events; generated if left out


class KeyParams(Params, frozen=True):
    key: str  # in the given `encoding`
    encoding: KeyEncoding | None = None  # text if left out
    timeout: int | None = None


class ForgetParams(Params, frozen=True):
    key: str  # in the given `encoding`
    encoding: KeyEncoding | None = None  # text if left out


class GetValueParams(Params, frozen=True):
    key: str  # in the given `encoding`
    encoding: KeyEncoding | None = None  # text if left out
    quorum: int | None = None  # how many peers must return the same value; 4 if left out
    timeout: int | None = None
    query_id: str | None = None  # identifies the search in its events; generated if left out


class PutValueParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("value",)
    key: str  # in the given `encoding`
    value: str  # base64
    encoding: KeyEncoding | None = None  # text if left out
    timeout: int | None = None


class FoundPeer(Record, frozen=True):
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/
    connected: bool  # to this node
    asked: int  # number of peers queried


class Provider(Record, frozen=True):
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/; empty if none are known


class FoundProviders(Record, frozen=True):
    query_id: str  # as in the search's events
    key: str  # base64
    providers: list[Provider]  # in the order in which they were found
    asked: int  # number of peers queried
    complete: bool  # false if the deadline ended the search; the result is then what was found so far


class Provided(Record, frozen=True):
    """``sent`` counts the peers to which the record was sent; the specification has no acknowledgement. ``confirmed``
    counts those that list this node when queried. rust-libp2p omits the asker, so it never counts."""

    key: str  # base64
    sent: int  # number of peers to which the record was sent
    confirmed: int  # how many of them have it, as a query showed
    asked: int  # number of peers queried to find the closest
    complete: bool  # false if the deadline ended it
    failures: dict[str, str]  # by peer id, in words


class FoundValue(Record, frozen=True):
    """Anybody can store a value under a key without a namespace. ``byOwner`` is true if the peer that a
    ``metadata:<peer id>`` key names has returned the value itself."""

    query_id: str  # as in the search's events
    key: str  # base64
    found: bool  # whether there is a value
    asked: int  # number of peers queried
    answers: int  # number of peers that returned this value
    others: int  # number of peers that returned another value
    complete: bool  # false if the deadline ended the search
    by_owner: bool  # whether the peer that the key names has returned it
    value: str | None = None  # base64


class StoredValue(Record, frozen=True):
    key: str  # base64
    stored: int  # number of peers that accepted it
    asked: int  # number of peers queried to find the closest
    complete: bool  # false if the deadline ended it
    failures: dict[str, str]  # by peer id, in words


class Forgotten(Record, frozen=True):
    key: str  # base64
    provided: bool  # whether it was provided, and is no longer announced
    value: bool  # whether a value was stored, and is no longer announced


class KeptRecord(Record, frozen=True):
    key: str  # base64
    provided: bool  # true for a provided key, false for a value
    announced: int | None = None  # when it was last announced
    next: int | None = None  # when it will be announced again, at the latest


class DhtStatus(Record, frozen=True):
    mode: DhtMode  # a server answers other nodes, a client only asks
    peers: int  # number of peers in the routing table
    values: int  # number of values stored for others
    provided_keys: int  # number of provided keys stored for others
    lookups: int  # lookups begun since the node started
    asked: int  # number of messages sent to other nodes
    failed: int  # how many of them got no answer
    answered: dict[str, int]  # number of messages received from other nodes, by kind
    refused: int  # how many of them were refused because they break the rules
    malformed: int  # number of messages that could not be decoded
    kept: list[KeptRecord]  # keys and values that users have announced


class RoutingPeer(Record, frozen=True):
    peer_id: str
    connected: bool  # to this node
    heard: int  # when it last answered, or connected
    suspect: bool  # it has since failed to answer once; it is removed at the next failure
    network: str | None = None  # the /24 or /48 network against whose share of the table it counts


class Bucket(Record, frozen=True):
    shared_bits: int  # number of leading bits that its peers' positions share with this node's
    peers: list[RoutingPeer]  # at most 20


class DhtRouting(Record, frozen=True):
    peers: int  # number of peers in all buckets
    buckets: list[Bucket]  # those that are not empty, the farthest from this node first


class DhtModeChanged(EventData, frozen=True):
    """This node has begun to answer other nodes, or has stopped answering them."""

    TYPE = "dht:mode"
    mode: DhtMode  # a server answers other nodes, a client only asks


class ProviderFound(EventData, frozen=True):
    """A search has found a provider, and continues."""

    TYPE = "dht:provider"
    query_id: str  # of the search
    key: str  # base64
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/


class ValueFound(EventData, frozen=True):
    """A peer has returned a value, and the search continues."""

    TYPE = "dht:value"
    query_id: str  # of the search
    key: str  # base64
    peer_id: str  # the peer that returned it
    size: int  # bytes of the value


EVENTS = (DhtModeChanged, ProviderFound, ValueFound)
