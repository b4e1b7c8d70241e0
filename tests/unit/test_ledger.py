"""Places for streams: what of them one peer, one caller and one network may have."""

from __future__ import annotations

import pytest

from fabstir_client.api.errors import LimitExceeded
from fabstird.config import StreamsConfig
from fabstird.metrics.stream_tally import StreamTally
from fabstird.p2p.streams.ledger import FEW, Ledger


def made(most: int, of_a_peer: int) -> Ledger:
    return Ledger(StreamsConfig(max_open=most, max_open_per_peer=of_a_peer), StreamTally())


def test_one_who_opens_streams_to_many_peers_leaves_some_places_to_others() -> None:
    """One caller's streams, or those of one network's peers, were all that there were."""
    ledger = made(160, 20)
    for number in range(150):
        ledger.reserve(f"peer {number % 10}", "greedy")
    with pytest.raises(LimitExceeded) as refused:
        ledger.reserve("another peer", "greedy")
    assert refused.value.data == {"limit": 150, "current": 150, "configKey": "streams.max_open"}
    for number in range(FEW):
        ledger.reserve(f"peer of another {number}", "another")
    assert ledger.over("peer", "another") is not None
    ledger.reserve("peer", "a third")
    ledger.reserve("peer", "a third")
    over = ledger.over("peer", "a fourth")
    assert over is not None
    assert over.data["limit"] == 160
    ledger.give_back("peer", "a third")
    ledger.give_back("peer", "a third")
    for number in range(10):
        ledger.give_back(f"peer {number}", "greedy")
    ledger.reserve("peer", "another")


@pytest.mark.parametrize(("most", "of_a_peer"), [(4, 4), (15, 2), (1000, 1000), (1000, 990)])
def test_where_one_peer_may_have_them_or_there_are_few_no_place_is_left_to_others(most: int, of_a_peer: int) -> None:
    ledger = made(most, of_a_peer)
    for number in range(of_a_peer):
        ledger.reserve("peer", "caller")
        assert len(ledger) == number + 1
    over = ledger.over("peer", "caller")
    assert over is not None
    assert over.data["limit"] == of_a_peer or of_a_peer == most
