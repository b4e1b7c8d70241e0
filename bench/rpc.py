"""What a call costs: fabstird's three transports beside go-libp2p-daemon, a Node `ws` server and a bare trio socket.

Servers take turns in every round, so that a busy moment of the machine falls on all; medians over the rounds.

usage: .venv/bin/python -m bench.rpc [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from bench import anchors, clients
from bench.anchors import Running
from bench.clients import Caller
from bench.table import Row, table

CALLS = 400  # one after the other, a round
PIPELINED = 12_800  # a round
SECONDS_US = 1e6


@dataclass
class Contender:
    """A way to ask a server, and what was found."""

    name: str
    server: Running
    open: Callable[[Running], AbstractContextManager[Caller]]
    pipelines: bool = True
    p50: list[float] = field(default_factory=list)  # µs, a round each
    cpu: list[float] = field(default_factory=list)  # µs a call
    rate: list[float] = field(default_factory=list)  # calls a second, pipelined
    cpu_pipelined: list[float] = field(default_factory=list)

    def round(self) -> None:
        with self.open(self.server) as caller:
            caller.times(50)  # warm
            before = self.server.cpu()
            self.p50.append(statistics.median(caller.times(CALLS)) * SECONDS_US)
            self.cpu.append((self.server.cpu() - before) / CALLS * SECONDS_US)
            if self.pipelines:
                before = self.server.cpu()
                self.rate.append(PIPELINED / caller.pipelined(PIPELINED))
                self.cpu_pipelined.append((self.server.cpu() - before) / PIPELINED * SECONDS_US)


def measure(rounds: int) -> list[Row]:
    with ExitStack() as stack:
        daemon = stack.enter_context(anchors.fabstird())
        node = stack.enter_context(anchors.node())
        contenders = {
            "go": Contender("go-libp2p-daemon", stack.enter_context(anchors.go()), clients.identify),
            "node": Contender("Node ws", node, clients.websocket),
            "floor": Contender("trio echo", stack.enter_context(anchors.floor()), clients.ipc),
            "ipc": Contender("IPC", daemon, clients.ipc),
            "ws": Contender("/ws", daemon, clients.websocket),
            "post": Contender("POST /rpc", daemon, clients.post, pipelines=False),
        }
        for _ in range(rounds + 1):
            for one in contenders.values():
                one.round()
    return _rows(contenders)


def _rows(found: dict[str, Contender]) -> list[Row]:
    def p50(name: str) -> float:
        return statistics.median(found[name].p50[1:])  # the first round warms compilers and caches

    def cpu(name: str) -> float:
        return statistics.median(found[name].cpu[1:])

    def rate(name: str) -> float:
        return statistics.median(found[name].rate[1:])

    def rate_cpu(name: str) -> float:
        return statistics.median(found[name].cpu_pipelined[1:])

    rows = []
    for what, anchor, most in (("ipc", "go", 1.25), ("ipc", "node", 0.8), ("ipc", "floor", None)):
        rows.append(_p50("IPC, status, p50", found[anchor], p50(what), p50(anchor), cpu(what), cpu(anchor), most))
    for anchor, least in (("go", 0.9), ("node", 1.25), ("floor", None)):
        rows.append(
            Row(
                "IPC, pipelined",
                found[anchor].name,
                f"{rate(anchor) / 1000:.1f}k/s, {rate_cpu(anchor):.1f} µs CPU",
                f"{rate('ipc') / 1000:.1f}k/s, {rate_cpu('ipc'):.1f} µs CPU",
                rate("ipc") / rate(anchor),
                least=least,
            )
        )
    for what, most in (("post", 8.0), ("ws", 3.0)):
        title = f"{found[what].name}, status, p50"
        rows.append(_p50(title, found["node"], p50(what), p50("node"), cpu(what), cpu("node"), most))
    return rows


def _p50(
    title: str, anchor: Contender, ours: float, theirs: float, cpu: float, their_cpu: float, most: float | None
) -> Row:
    return Row(
        title,
        anchor.name,
        f"{theirs:.0f} µs, {their_cpu:.0f} µs CPU",
        f"{ours:.0f} µs, {cpu:.0f} µs CPU",
        ours / theirs,
        most=most,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    print(table(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
