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
from bench.clients import BATCH, STATUSES, Caller
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
    batch: int = 1  # calls that are asked together
    p50: list[float] = field(default_factory=list)  # µs, a round each
    cpu: list[float] = field(default_factory=list)  # µs a call
    rate: list[float] = field(default_factory=list)  # calls a second, pipelined
    cpu_pipelined: list[float] = field(default_factory=list)

    def round(self) -> None:
        with self.open(self.server) as caller:
            caller.times(50)  # warm
            before = self.server.cpu()
            asked = CALLS // min(self.batch, 4)
            self.p50.append(statistics.median(caller.times(asked)) / self.batch * SECONDS_US)
            self.cpu.append((self.server.cpu() - before) / (asked * self.batch) * SECONDS_US)
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
            "batch": Contender("IPC", daemon, clients.batch, pipelines=False, batch=BATCH),
            "posts": Contender("POST /rpc", daemon, _posts, pipelines=False, batch=BATCH),
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
    for what, anchor, most in (("ipc", "go", 1.25), ("ipc", "node", 0.75), ("ipc", "floor", 1.2)):
        rows.append(_p50("IPC, status, p50", found[anchor], p50(what), p50(anchor), cpu(what), cpu(anchor), most))
    for what, anchor, least in (("ipc", "go", 0.9), ("ipc", "node", 1.25), ("ipc", "floor", None), ("ws", "node", 0.9)):
        rows.append(
            Row(
                f"{found[what].name}, pipelined",
                found[anchor].name,
                f"{rate(anchor) / 1000:.1f}k/s, {rate_cpu(anchor):.1f} µs CPU",
                f"{rate(what) / 1000:.1f}k/s, {rate_cpu(what):.1f} µs CPU",
                rate(what) / rate(anchor),
                least=least,
            )
        )
    for what, most in (("post", 6.0), ("ws", 1.5)):
        title = f"{found[what].name}, status, p50"
        rows.append(_p50(title, found["node"], p50(what), p50("node"), cpu(what), cpu("node"), most))
    for what in ("batch", "posts"):
        rows.append(
            Row(
                f"{found[what].name}, batches of {BATCH}",
                "Node ws, pipelined",
                f"{rate('node') / 1000:.1f}k/s, {rate_cpu('node'):.1f} µs CPU",
                f"{SECONDS_US / p50(what) / 1000:.1f}k/s, {cpu(what):.1f} µs CPU",
                SECONDS_US / p50(what) / rate("node"),
                least=0.8,
            )
        )
    return rows


def _posts(server: Running) -> AbstractContextManager[Caller]:
    return clients.post(server, STATUSES)


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
