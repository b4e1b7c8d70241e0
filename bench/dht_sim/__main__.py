"""The table of docs/dht.md: the DHT in networks of thousands, beside its goals.

usage: .venv/bin/python -m bench.dht_sim [--size 10000] [--seeds 1,2,3] [--only still,churn]; `make dht-sim` runs it
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bench.dht_sim import scenarios
from bench.dht_sim.scenarios import Samples
from bench.dht_sim.world import simulated

CHURN_SIZE = 1000  # nodes; an hour of 10,000 that come and go takes as long as all the other rows together
HOURS = 24


class Measured(dict[str, Samples]):
    """By what was done."""

    def __missing__(self, name: str) -> Samples:
        return self.setdefault(name, Samples())

    def take(self, other: Measured) -> None:
        for name, samples in other.items():
            for what, one in samples.items():
                self[name][what].values += one.values


@dataclass(frozen=True)
class Row:
    """``shown`` is what was measured in words; ``met`` whether that is within the ``goal``."""

    what: str
    goal: str
    shown: str
    met: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.goal} | {self.shown} | {'yes' if self.met else 'no'} |"


def one_still(seed: int, size: int) -> Measured:
    """One network: at rest, then with a tenth of it dead, then with crowds."""
    measured = Measured()
    world, nodes = scenarios.network(seed, size)
    scenarios.background(world, nodes, measured["rest"])
    nodes = scenarios.die(world, nodes)
    scenarios.searches(world, nodes, 170, measured["searches"])
    scenarios.popular(world, nodes, measured["popular"])
    scenarios.attacked(world, nodes, measured["one network"], one_network=True, count=size // 10)
    scenarios.attacked(world, nodes, measured["networks"], one_network=False, count=size // 10)
    return measured


def still(measured: Measured) -> list[Row]:
    samples, rest, many = measured["searches"], measured["rest"], measured["popular"]
    rate, busiest = rest["background"].mean, max(rest["busiest"].values)
    memory, most = rest["memory"].mean / 1000, max(rest["memory"].values) / 1000
    once, all_, of = (min(many[name].values) for name in ("one_search", "whole_searches", "providers"))
    return [
        _share("providers and values found", samples, "found", 0.999),
        Row("recall of the 20 closest", "≥ 0.99", f"{samples['recall'].mean:.3f}", samples["recall"].mean >= 0.99),
        Row("hops to the first record, p95", "≤ 3", f"{samples['hops'].at(0.95):.0f}", samples["hops"].at(0.95) <= 3),
        _pair("peers asked, p50/p95", samples, "asks", 36, 42, "{:.0f}"),
        _pair("first provider, p50/p95 in s", samples, "first", 0.5, 1.0),
        _pair("`get_value`, p50/p95 in s", samples, "get", 1.0, 1.5),
        _pair("`find_providers` to its end, p50/p95 in s", samples, "whole", 2.5, 5.0),
        _pair("`provide`, p50/p95 in s", samples, "provide", 3.0, 6.0),
        _none_removed(samples),
        Row("background messages of a node", "≤ 0.3/s", f"{rate:.2f}/s", rate <= 0.3),
        Row("busiest ordinary node", "≤ 5 times the median", f"{busiest:.1f} times", busiest <= 5),
        Row(
            "memory a node",
            "≤ 100 kB",
            f"{memory:.0f} kB, {most:.0f} at most; {rest['table'].mean:.0f} peers",
            memory <= 100,
        ),
        Row("200 providers of one key, one search for all", "≥ 64", f"{once:.0f}", once >= 64),
        Row("… within 20 searches", f"{of:.0f}", f"{all_:.0f}", all_ >= of),
        _share("found with 10 % of all ids beside the key, in one /24", measured["one network"], "found", 0.99),
        _share("… in as many networks", measured["networks"], "found", 0.90),
    ]


def one_of_liars(seed: int, size: int) -> Measured:
    measured = Measured()
    world, nodes = scenarios.network(seed, size, liars=0.1)
    scenarios.searches(world, scenarios.honest(nodes), 100, measured["liars"])
    return measured


def liars(measured: Measured) -> list[Row]:
    return [_share("found with 10 % liars", measured["liars"], "found", 0.99)]


def one_churn(seed: int, size: int) -> Measured:
    measured = Measured()
    scenarios.churn(seed, min(size, CHURN_SIZE), HOURS, measured["churn"])
    return measured


def churn(measured: Measured) -> list[Row]:
    samples = measured["churn"]
    hours = {hour: samples[f"hour {hour}"].mean for hour in range(1, HOURS + 1)}
    worst = min(hours, key=lambda hour: hours[hour])
    words = f"{100 * hours[worst]:.1f} % (hour {worst}), {100 * sum(hours.values()) / HOURS:.2f} % of all"
    return [
        Row(f"found at every hour up to {HOURS}, sessions of 60 min", "≥ 99 %", words, hours[worst] >= 0.99),
        _none_removed(samples),
    ]


# What measures one network, and what makes rows of all of them.
PARTS: dict[str, tuple[Callable[[int, int], Measured], Callable[[Measured], list[Row]]]] = {
    "still": (one_still, still),
    "liars": (one_of_liars, liars),
    "churn": (one_churn, churn),
}


def measure(part: str, size: int, seed: int) -> tuple[Measured, float]:
    """And the seconds of a core that it took."""
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)  # a network is millions of objects, none of them in cycles that end soon
    began = time.process_time()
    with simulated():
        measured = PARTS[part][0](seed, size)
    _say_so(part, seed, measured)
    return measured, time.process_time() - began


def _say_so(part: str, seed: int, measured: Measured) -> None:
    """A seed takes minutes: who waits sees that it goes on."""
    means = {f"{name} {what}": one.mean for name, samples in measured.items() for what, one in samples.items()}
    words = ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())
    print(f"{part}, seed {seed}: {words}", file=sys.stderr, flush=True)


def _share(what: str, samples: Samples, name: str, goal: float) -> Row:
    share = samples[name].mean
    of = len(samples[name].values)
    return Row(what, f"≥ {100 * goal:g} %", f"{100 * share:.1f} % of {of}", share >= goal)


def _pair(what: str, samples: Samples, name: str, p50: float, p95: float, form: str = "{:.2f}") -> Row:
    found = samples[name]
    shown = f"{form.format(found.at(0.5))}/{form.format(found.at(0.95))}"
    return Row(what, f"≤ {p50:g}/{p95:g}", shown, found.at(0.5) <= p50 and found.at(0.95) <= p95)


def _none_removed(samples: Samples) -> Row:
    removed = sum(samples["removed"].values)
    return Row("… live peers that lost their place in a table", "0", f"{removed:.0f}", not removed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time")
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    print(f"{options.size:,} nodes, seeds {options.seeds}\n\n| | goal | measured | met |\n| --- | --- | --- | --- |")
    spent = {}
    with ProcessPoolExecutor(options.jobs) as jobs:
        parts = [
            (part, [jobs.submit(measure, part, options.size, seed) for seed in seeds])
            for part in options.only.split(",")
        ]
        for part, running in parts:
            whole = Measured()
            for each in running:
                whole.take(each.result()[0])
            spent[part] = sum(each.result()[1] for each in running) / len(running)
            for row in PARTS[part][1](whole):
                print(row, flush=True)
    print("\nSeconds of a core, a seed:", ", ".join(f"{name} {seconds:.0f}" for name, seconds in spent.items()))


if __name__ == "__main__":
    main()
