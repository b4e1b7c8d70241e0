"""The DHT: parameters, results and events of ``dht.*``. See `types`.

A key is ``text`` (UTF-8) unless ``encoding`` says ``base64`` or ``cid``; of a CID its multihash is the key. Answers and
events give keys as bytes in base64. Values are base64.
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
    key: str  # as `encoding` says
    encoding: KeyEncoding | None = None  # text where it is left out
    count: int | None = None  # providers that are enough; 20 where it is left out
    timeout: int | None = None
    query_id: str | None = None  # names the search in its events; made up where it is left out


class KeyParams(Params, frozen=True):
    key: str  # as `encoding` says
    encoding: KeyEncoding | None = None  # text where it is left out
    timeout: int | None = None


class ForgetParams(Params, frozen=True):
    key: str  # as `encoding` says
    encoding: KeyEncoding | None = None  # text where it is left out


class GetValueParams(Params, frozen=True):
    key: str  # as `encoding` says
    encoding: KeyEncoding | None = None  # text where it is left out
    quorum: int | None = None  # peers with the same value that are enough; 4 where it is left out
    timeout: int | None = None
    query_id: str | None = None  # names the search in its events; made up where it is left out


class PutValueParams(Params, frozen=True):
    PAYLOADS: ClassVar[tuple[str, ...]] = ("value",)
    key: str  # as `encoding` says
    value: str  # base64
    encoding: KeyEncoding | None = None  # text where it is left out
    timeout: int | None = None


class FoundPeer(Record, frozen=True):
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/
    connected: bool  # to this node
    asked: int  # peers that were asked


class Provider(Record, frozen=True):
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/; none where nobody told any


class FoundProviders(Record, frozen=True):
    query_id: str  # as in its events
    key: str  # base64
    providers: list[Provider]  # in the order in which they were found
    asked: int  # peers that were asked
    complete: bool  # false where the deadline ended the search, and what it had found is returned


class Provided(Record, frozen=True):
    """``sent`` counts the peers that were told; the specification has no answer to that. ``confirmed`` counts those
    that list this node when queried. rust-libp2p omits the asker, so it never counts."""

    key: str  # base64
    sent: int  # peers that were told
    confirmed: int  # of them, that were seen to have it
    asked: int  # peers that were asked who is closest
    complete: bool  # false where the deadline ended it
    failures: dict[str, str]  # by peer id, in words


class FoundValue(Record, frozen=True):
    """A value without a namespace may be anybody's: ``by_owner`` says that the peer which a ``metadata:<peer id>`` key
    names has given it itself."""

    query_id: str  # as in its events
    key: str  # base64
    found: bool  # whether there is a value
    asked: int  # peers that were asked
    answers: int  # peers that gave this value
    others: int  # peers that gave another one
    complete: bool  # false where the deadline ended the search
    by_owner: bool  # the peer that the key names has given it
    value: str | None = None  # base64


class StoredValue(Record, frozen=True):
    key: str  # base64
    stored: int  # peers that took it
    asked: int  # peers that were asked who is closest
    complete: bool  # false where the deadline ended it
    failures: dict[str, str]  # by peer id, in words


class Forgotten(Record, frozen=True):
    key: str  # base64
    provided: bool  # it was provided, and is no longer announced
    value: bool  # a value was put there, and is no longer announced


class KeptRecord(Record, frozen=True):
    key: str  # base64
    provided: bool  # else a value
    announced: int | None = None  # instant of the last time
    next: int | None = None  # instant of the next time, at the latest


class DhtStatus(Record, frozen=True):
    mode: DhtMode  # a server answers other nodes, a client only asks
    peers: int  # in the routing table
    values: int  # held for others
    provided_keys: int  # held for others
    lookups: int  # begun since the node started
    asked: int  # messages to other nodes
    failed: int  # of them, without an answer
    answered: dict[str, int]  # messages of other nodes, by kind
    refused: int  # of them, against the rules
    malformed: int  # messages that could not be decoded
    kept: list[KeptRecord]  # what users provide and have put


class RoutingPeer(Record, frozen=True):
    peer_id: str
    connected: bool  # to this node
    heard: int  # instant at which it last answered, or came
    suspect: bool  # it has not answered since; it is removed when it fails again
    network: str | None = None  # /24 or /48 that its share of the table is counted by


class Bucket(Record, frozen=True):
    shared_bits: int  # that the positions of its peers have in common with this node's
    peers: list[RoutingPeer]  # 20 at most


class DhtRouting(Record, frozen=True):
    peers: int  # of all buckets
    buckets: list[Bucket]  # those that are not empty, the farthest from this node first


class DhtModeChanged(EventData, frozen=True):
    """This node answers others from now on, or does so no longer."""

    TYPE = "dht:mode"
    mode: DhtMode  # a server answers other nodes, a client only asks


class ProviderFound(EventData, frozen=True):
    """A provider has been found, while its search goes on."""

    TYPE = "dht:provider"
    query_id: str  # of the search
    key: str  # base64
    peer_id: str
    addresses: list[str]  # multiaddrs with /p2p/


class ValueFound(EventData, frozen=True):
    """A peer has given a value, while the search goes on."""

    TYPE = "dht:value"
    query_id: str  # of the search
    key: str  # base64
    peer_id: str  # that gave it
    size: int  # bytes of the value


EVENTS = (DhtModeChanged, ProviderFound, ValueFound)
