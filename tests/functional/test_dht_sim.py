"""The DHT's decisions in networks of hundreds, on a virtual clock: they find, and go on finding when peers come, go,
crowd or lie. `make dht-sim` does the same with 10,000 nodes. A failure names its seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.dht_sim import scenarios
from bench.dht_sim.scenarios import Samples
from bench.dht_sim.world import Setting, simulated


@pytest.fixture(autouse=True, scope="module")
def _own_positions() -> Iterator[None]:
    """The simulation remembers positions without a bound, and puts attackers' where it likes."""
    with simulated():
        yield


def test_five_hundred_nodes_find_everything_in_time() -> None:
    samples = Samples()
    world, nodes = scenarios.network(1, 500)
    scenarios.background(world, nodes, samples)
    scenarios.searches(world, scenarios.die(world, nodes), 40, samples)
    assert samples["found"].mean == 1
    assert samples["recall"].mean >= 0.98
    assert samples["hops"].at(0.95) <= 3
    assert samples["asks"].at(0.95) <= 42
    assert samples["first"].at(0.5) <= 0.5
    assert samples["get"].at(0.5) <= 1
    assert samples["whole"].at(0.5) <= 2.5, "stragglers do not set the time"
    assert samples["provide"].at(0.5) <= 3
    assert samples["removed"].values == [0]
    assert samples["background"].mean <= 0.3
    assert samples["busiest"].mean <= 5
    assert samples["memory"].mean <= 100_000


def test_a_full_connection_manager_costs_nobody_a_place() -> None:
    """Seen: tables went from 60 peers to none in ten minutes, because dials that were not made counted as failures."""
    world, nodes = scenarios.network(1, 80, settle=60, setting=Setting(low=6, high=8, grace=0))
    before = sum(len(node.table) for node in nodes) / len(nodes)
    world.run(world.now + 1500)
    after = sum(len(node.table) for node in nodes) / len(nodes)
    assert after >= before - 1
    assert world.removed_alive == 0


def test_who_comes_and_goes_is_made_up_for() -> None:
    samples = Samples()
    scenarios.churn(1, 50, 3, samples)
    assert [samples[f"hour {hour}"].mean for hour in (1, 2, 3)] == [1, 1, 1]
    assert samples["removed"].values == [0]


@pytest.mark.parametrize("one_network", [True, False])
def test_a_crowd_beside_a_key_does_not_hide_it(one_network: bool) -> None:
    samples = Samples()
    scenarios.attacked(*scenarios.network(1, 150), samples, one_network=one_network, count=15)
    assert samples["found"].mean >= 0.9


def test_liars_do_not_end_a_search() -> None:
    samples = Samples()
    world, nodes = scenarios.network(1, 100, liars=0.1)
    scenarios.searches(world, scenarios.honest(nodes), 10, samples)
    assert samples["found"].mean == 1


def test_all_providers_of_a_popular_key_are_found() -> None:
    samples = Samples()
    world, nodes = scenarios.network(1, 120)
    scenarios.popular(world, scenarios.die(world, nodes), samples)
    [providers], [once], [searches] = (samples[name].values for name in ("providers", "one_search", "whole_searches"))
    assert once >= 50
    assert searches == providers
