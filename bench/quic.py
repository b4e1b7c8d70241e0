"""What QUIC costs: two daemons over it, the same two over TCP, and two peers of js-libp2p over its QUIC, which is
native code, in the same run.

usage: .venv/bin/python -m bench.quic [--rounds N] [--cycles N]: a table, as markdown; `make bench-quic`

CPU is what the two processes used together, from /proc, for a MiB that is carried; of an echo it is carried twice.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench import anchors, servers
from bench.in_process import in_process
from bench.streams import MB, MIB, SETTINGS, Two, echo, joined, one_way

SIZE = 16 * MIB
WIDTH = 4  # connections that come at a time
FEW = 100  # connections whose CPU is measured together
STAGE = 1000  # cycles between two looks at the memory
LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}


@contextmanager
def two(kind: str) -> Iterator[Two]:
    settings = SETTINGS | {"node__listen_addresses": [LISTEN[kind]]}
    with ExitStack() as stack:
        near, far = (stack.enter_context(anchors.fabstird(**settings)) for _ in range(2))
        yield Two(joined(near, far, stack), near, far)


class Dialer:
    """`quic_dialer`, which obeys."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def open(self, count: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        self._process.stdin.flush()
        while not (line := self._process.stdout.readline()).strip().isdigit():
            if not line:
                raise RuntimeError("the dialer has ended")
        done = int(line)
        if done < count:
            raise RuntimeError(f"{done} of {count} were identified")


@contextmanager
def dialer(server: servers.Server) -> Iterator[Dialer]:
    about = server.call("status")
    command = [sys.executable, "-m", "bench.quic_dialer", about["listenAddresses"][0], str(WIDTH)]
    with anchors.running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Dialer(process)


def connection_cpu(kind: str, times: int) -> list[float]:
    """Milliseconds of the listener's CPU for a connection that comes, identifies and goes."""
    with servers.fabstird(LISTEN[kind]) as server, dialer(server) as peers:
        peers.open(FEW)
        found = []
        for _ in range(times):
            before = server.cpu()
            peers.open(FEW)
            servers.settle(server, 0)
            found.append(1000 * (server.cpu() - before) / FEW)
        return found


def cycles(kind: str, count: int) -> None:
    """Connections that come, identify and go: what stays behind, after each thousand."""
    with servers.fabstird(LISTEN[kind]) as server, dialer(server) as peers:
        for done in range(STAGE, count + 1, STAGE):
            peers.open(STAGE)
            servers.settle(server, 0)
            held = f"{server.resident() / MB:.1f} MB, {server.tasks()} tasks, {server.descriptors()} descriptors"
            print(f"{kind}: {done} cycles, {held}", flush=True)


def carried(figures: dict[str, list[float]], who: str, what: str, two: Any, run: Any) -> None:
    before = two.cpu()
    speed = run()
    mib = SIZE / MIB * (2 if what == "echo" else 1)
    figures.setdefault(f"{who} {what} MB/s", []).append(speed)
    figures.setdefault(f"{who} {what} ms/MiB", []).append(1000 * (two.cpu() - before) / mib)


def measure(rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for kind in ("quic", "tcp"):
            with two(kind) as pair:
                carried(figures, kind, "one way", pair, lambda pair=pair: one_way(pair, SIZE))
                carried(figures, kind, "echo", pair, lambda pair=pair: echo(pair, SIZE))
            figures.setdefault(f"{kind} connection ms", []).extend(connection_cpu(kind, 2))
        with in_process("js", listen=LISTEN["quic"]) as js:
            js.ask("echo", bytes=MIB)

            def up() -> float:
                return SIZE / float(js.ask("perf", upload=SIZE, download=0)["upload"]) / MB

            def around() -> float:
                return SIZE / float(js.ask("echo", bytes=SIZE)["ms"]) * 1000 / MB

            carried(figures, "js", "one way", js, up)
            carried(figures, "js", "echo", js, around)
    return figures


def table(figures: dict[str, list[float]]) -> str:
    median = {name: statistics.median(values) for name, values in figures.items()}
    lines = ["| figure | over QUIC | over TCP | js-libp2p's QUIC |", "| --- | ---: | ---: | ---: |"]
    for what in ("one way", "echo"):
        for unit in ("MB/s", "ms/MiB"):
            cells = [f"{median[f'{who} {what} {unit}']:.3g}" for who in ("quic", "tcp", "js")]
            lines.append(f"| {what}, {unit.replace('ms/MiB', 'ms of CPU a MiB')} | {' | '.join(cells)} |")
    lines.append(
        f"| a connection, ms of the listener's CPU | {median['quic connection ms']:.2f} "
        f"| {median['tcp connection ms']:.2f} | |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cycles", type=int, help="only so many connections that come and go, and what stays behind")
    options = parser.parse_args()
    if options.cycles:
        cycles("quic", options.cycles)
        return
    load = os.getloadavg()[0]
    print(table(measure(options.rounds)))
    print(f"\nMedians of {options.rounds} interleaved rounds.")
    print(f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before.")


if __name__ == "__main__":
    main()
