"""The table of the API's speed, as markdown: fabstird beside its anchors, with ratios and goals.

usage: .venv/bin/python -m bench.table [--rounds N]: every row; `make bench` runs it
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison. ``ratio`` is ours over the anchor's; the goal is ``most`` of that, or ``least``."""

    what: str
    anchor: str
    theirs: str
    ours: str
    ratio: float
    most: float | None = None
    least: float | None = None

    def cells(self) -> list[str]:
        goal = (
            f"≤ {self.most:g} x" if self.most is not None else f"≥ {self.least:g} x" if self.least is not None else ""
        )
        met = ""
        if goal:
            good = self.ratio <= self.most if self.most is not None else self.ratio >= (self.least or 0)
            met = "yes" if good else "no"
        return [self.what, self.anchor, self.theirs, self.ours, f"{self.ratio:.2f}", goal, met]


HEAD = ["figure", "anchor", "anchor's", "fabstird", "ratio", "goal", "met"]


def table(rows: Sequence[Row]) -> str:
    lines = [HEAD, ["---", "---", "---:", "---:", "---:", "---", "---"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    from bench import events, rpc, startup

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    load, begun = os.getloadavg()[0], time.monotonic()
    print(table([*rpc.measure(rounds), *events.measure(rounds), *startup.measure(rounds)]))
    print()
    print(f"Medians of {rounds} interleaved rounds; CPU is the server process's, a call or a delivery.")
    print(f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before; {time.monotonic() - begun:.0f} s.")


if __name__ == "__main__":
    main()
