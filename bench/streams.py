"""Streams between programs at two daemons, beside two go-libp2p-daemons used the same way, and js-libp2p and go-libp2p
without daemons.

usage: .venv/bin/python -m bench.streams [--rounds N] [--only echo,opens,…]: a table, as markdown; `make bench-streams`
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import anchors
from bench.in_process import Pair, in_process
from bench.stream_ends import (
    CHUNK,
    ECHO,
    HEAD,
    HOLD,
    SINK,
    Fabstird,
    GoDaemon,
    Opener,
    call,
    connect,
    exactly,
    identify,
    serving,
)

MIB = 1024 * 1024
MB = 1_000_000
BULK = 32 * MIB
OPENS, MESSAGES, TRIPS, IDLE = 400, 60_000, 1000, 1000
FEW = 5_000  # messages where there is no daemon: js writes a packet for each
TOKENS_SECOND, TOKEN_SECONDS = 60, 4.0
SETTINGS: dict[str, Any] = {"api__http": "", "streams__max_open": 4096, "streams__max_open_per_peer": 4096}
FAR = 5  # daemons that hold the idle streams together: a connection carries 256


@dataclass
class Two:
    """Two daemons, and whoever opens a stream from a program at one to a program at the other."""

    opener: Opener
    near: anchors.Running
    far: anchors.Running

    def cpu(self) -> float:
        return self.near.cpu() + self.far.cpu()


@contextmanager
def two_fabstirds() -> Iterator[Two]:
    with ExitStack() as stack:
        near, far = (stack.enter_context(anchors.fabstird(**SETTINGS)) for _ in range(2))
        yield Two(joined(near, far, stack), near, far)


def joined(near: anchors.Running, far: anchors.Running, stack: ExitStack) -> Opener:
    about = call(far.ipc, "status")
    call(near.ipc, "connect", address=about["listenAddresses"][0])
    stack.enter_context(serving("fabstird", far.ipc))
    return Fabstird(near.ipc, about["peerId"])


@contextmanager
def two_go_daemons() -> Iterator[Two]:
    with anchors.go() as near, anchors.go() as far:
        peer_id, addresses = identify(far.ipc)
        connect(near.ipc, peer_id, addresses)
        with serving("p2pd", far.ipc):
            yield Two(GoDaemon(near.ipc, peer_id), near, far)


# ----------------------------------------------------------------------------------------------------------------------
# What is measured, of two daemons


def echo(two: Two, size: int = BULK) -> float:
    """MB/s, each way."""
    with two.opener.open() as stream:
        stream.sendall(HEAD.pack(size, ECHO))
        sender = threading.Thread(target=_send, args=(stream, size))
        begun = time.perf_counter()
        sender.start()
        room, left = bytearray(CHUNK), size
        while left:
            came = stream.recv_into(room, CHUNK)
            assert came, "it ended too early"
            left -= came
        took = time.perf_counter() - begun
        sender.join()
    return size / took / MB


def one_way(two: Two, size: int = BULK) -> float:
    """MB/s."""
    with two.opener.open() as stream:
        stream.sendall(HEAD.pack(size, SINK))
        begun = time.perf_counter()
        _send(stream, size)
        exactly(stream, 1)
        return size / (time.perf_counter() - begun) / MB


def _send(stream: Any, size: int) -> None:
    block = memoryview(bytes(CHUNK))
    while size:
        size -= stream.send(block[: min(size, CHUNK)])


def opens(two: Two) -> float:
    """Streams a second: opened, one byte each way, closed."""
    begun = time.perf_counter()
    for _ in range(OPENS):
        with two.opener.open() as stream:
            stream.sendall(HEAD.pack(1, ECHO) + b"x")
            exactly(stream, 1)
    return OPENS / (time.perf_counter() - begun)


def messages(two: Two) -> float:
    """Messages of five bytes a second, a system call each."""
    with two.opener.open() as stream:
        stream.sendall(HEAD.pack(5 * MESSAGES, SINK))
        begun = time.perf_counter()
        for _ in range(MESSAGES):
            stream.sendall(b"token")
        exactly(stream, 1)
        return MESSAGES / (time.perf_counter() - begun)


def round_trip(two: Two) -> float:
    """µs of a byte there and back, the median."""
    with two.opener.open() as stream:
        return _trips(stream)


def _trips(stream: Any) -> float:
    stream.sendall(HEAD.pack(TRIPS, ECHO))
    took = []
    for _ in range(TRIPS):
        begun = time.perf_counter()
        stream.sendall(b"x")
        exactly(stream, 1)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


def token_cpu(two: Two) -> float:
    """Percent of a core that both daemons take for a stream at 60 tokens a second, there and back as it happens."""
    count = int(TOKENS_SECOND * TOKEN_SECONDS)
    with two.opener.open() as stream:
        stream.sendall(HEAD.pack(5 * count, SINK))
        before, begun = two.cpu(), time.perf_counter()
        for number in range(1, count + 1):
            stream.sendall(b"token")
            time.sleep(max(0.0, begun + number / TOKENS_SECOND - time.perf_counter()))
        return 100 * (two.cpu() - before) / (time.perf_counter() - begun)


def rest_cpu(two: Two) -> float:
    """Percent of a core that both take without any stream."""
    before, begun = two.cpu(), time.perf_counter()
    time.sleep(TOKEN_SECONDS)
    return 100 * (two.cpu() - before) / (time.perf_counter() - begun)


def idle_go() -> float:
    """kB of the opening daemon's memory, a stream."""
    with two_go_daemons() as two:
        return _idle(two.near, [two.opener])


def idle_fabstird() -> float:
    with ExitStack() as stack:
        near, *far = (stack.enter_context(anchors.fabstird(**SETTINGS)) for _ in range(1 + FAR))
        return _idle(near, [joined(near, one, stack) for one in far])


def _idle(near: anchors.Running, openers: list[Opener]) -> float:
    with ExitStack() as stack:

        def hold(opener: Opener) -> None:
            stream = stack.enter_context(opener.open())
            stream.sendall(HEAD.pack(0, HOLD))
            exactly(stream, 1)

        for opener in openers:  # what the first ones bring with them is no stream's
            for _ in range(10):
                hold(opener)
        before = near.resident()
        for number in range(IDLE):
            if number % 200 == 0:
                opener = openers[number // 200 % len(openers)]
            hold(opener)
        return (near.resident() - before) / IDLE / 1000


def bare_trip() -> float:
    """µs of a byte there and back between the same two programs with nothing in between."""
    import socket as sockets

    from bench.stream_ends import _serve

    here, there = sockets.socketpair()
    server = threading.Thread(target=_serve, args=(there,))
    server.start()
    with here:
        took = _trips(here)
    server.join()
    return took


# ----------------------------------------------------------------------------------------------------------------------
# /perf/1.0.0


@contextmanager
def measuring() -> Iterator[anchors.Running]:
    with anchors.fabstird(**SETTINGS) as daemon:
        yield daemon


def perf(daemon: anchors.Running, peer_id: str) -> tuple[float, float]:
    """MB/s up and down, of a program at the daemon with a peer."""
    with Fabstird(daemon.ipc, peer_id, "/perf/1.0.0").open() as stream:
        begun = time.perf_counter()
        stream.sendall(BULK.to_bytes(8, "big"))
        _send(stream, BULK)
        stream.shutdown(1)
        room, left = bytearray(CHUNK), BULK
        left -= stream.recv_into(room, CHUNK)
        turned = time.perf_counter()
        while came := stream.recv_into(room, CHUNK):
            left -= came
        assert left == 0
        return BULK / (turned - begun) / MB, BULK / (time.perf_counter() - turned) / MB


# ----------------------------------------------------------------------------------------------------------------------
# The table


@dataclass
class Figures:
    """What the rounds have found, by who and what."""

    found: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, who: str, what: str, value: float) -> None:
        self.found.setdefault((who, what), []).append(value)
        print(f"  {what:<12} {who:<10} {value:10.1f}", flush=True)

    def of(self, who: str, what: str) -> float | None:
        values = self.found.get((who, what))
        return statistics.median(values) if values else None


OURS, GO2, GO, JS, RUST = "fabstird", "p2pd", "go", "js", "rust"
ROWS: dict[str, Callable[[Two], float]] = {
    "echo": echo,
    "one way": one_way,
    "opens": opens,
    "messages": messages,
    "round trip": round_trip,
    "tokens": token_cpu,
    "at rest": rest_cpu,
}


def measure(rounds: int, only: set[str]) -> Figures:
    figures = Figures()
    wanted = {name: row for name, row in ROWS.items() if not only or name in only}
    for number in range(rounds):
        print(f"round {number + 1}", flush=True)
        for who, started in ((OURS, two_fabstirds), (GO2, two_go_daemons)):
            if wanted:
                with started() as two:
                    for name, row in wanted.items():
                        figures.add(who, name, row(two))
        if "round trip" in wanted:
            figures.add("bare", "round trip", bare_trip())
        if not only or "idle" in only:
            figures.add(OURS, "idle", idle_fabstird())
            figures.add(GO2, "idle", idle_go())
        for name in (GO, JS):
            with in_process(name) as pair:
                _in_process(figures, name, pair, only)
        if not only or "perf" in only:
            with measuring() as daemon:
                for name in (GO, JS, RUST):
                    with in_process(name, alone=True) as pair:
                        peer = pair.meet(daemon)
                        up, down = perf(daemon, peer)
                        figures.add(OURS, f"perf up {name}", up)
                        figures.add(OURS, f"perf down {name}", down)
    return figures


def _in_process(figures: Figures, name: str, pair: Pair, only: set[str]) -> None:
    if not only or "echo" in only:
        figures.add(name, "echo", BULK / pair.ask("echo", bytes=BULK)["ms"] / 1000)
    if not only or "perf" in only or "one way" in only:
        said = pair.ask("perf", upload=BULK, download=BULK)
        figures.add(name, "one way", BULK / said["upload"] / MB)
        figures.add(name, "perf up", BULK / said["upload"] / MB)
        figures.add(name, "perf down", BULK / said["download"] / MB)
    if not only or "opens" in only:
        figures.add(name, "opens", OPENS / pair.ask("opens", count=OPENS)["seconds"])
    if not only or "messages" in only:
        figures.add(name, "messages", FEW / pair.ask("messages", count=FEW)["seconds"])
    if not only or "round trip" in only:
        figures.add(name, "round trip", pair.ask("roundTrips", count=TRIPS)["p50"] * 1000)


def table(figures: Figures) -> str:
    of = figures.of
    bare = of("bare", "round trip") or 0.0
    lines = [
        "| figure | two fabstirds | two go-libp2p-daemons | ratio | goal | met | go in process | js in process |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: |",
    ]

    def row(words: str, name: str, unit: str, goal: str, good: Callable[[float, float], bool], less: float = 0) -> None:
        ours, theirs = of(OURS, name), of(GO2, name)
        if ours is None or theirs is None:
            return
        ratio = (ours - less) / (theirs - less)
        others = [of(who, name) for who in (GO, JS)]
        cells = [f"{value - less:,.{1 if value - less < 100 else 0}f}{unit}" for value in (ours, theirs)]
        rest = ["" if value is None else f"{value:,.{1 if value < 100 else 0}f}{unit}" for value in others]
        met = "" if not goal else "yes" if good(ours - less, ratio) else "no"
        lines.append(f"| {words} | {cells[0]} | {cells[1]} | {ratio:.2f} | {goal} | {met} | {rest[0]} | {rest[1]} |")

    row("echo", "echo", " MB/s", "≥ 1.0 x", lambda _, ratio: ratio >= 1.0)
    row("one way", "one way", " MB/s", "≥ 0.8 x", lambda _, ratio: ratio >= 0.8)
    row("open, a byte each way, close", "opens", "/s", "≥ 1.0 x", lambda _, ratio: ratio >= 1.0)
    row("5-byte messages on one stream", "messages", "/s", "≥ 1.0 x", lambda _, ratio: ratio >= 1.0)
    row(
        "round trip of a byte, p50, added to that of a bare socket", "round trip", " µs", "≤ 1.5 x",
        lambda _, ratio: ratio <= 1.5, bare,
    )  # fmt: skip
    row("60 tokens/s on one stream, CPU of both", "tokens", " %", "≤ 3 % of a core", lambda ours, _: ours <= 3)
    row("the same without a stream", "at rest", " %", "", lambda *_: True)
    row("memory of an idle stream of 1,000", "idle", " kB", "≤ 12 kB", lambda ours, _: ours <= 12)
    lines += [
        "",
        "| `/perf/1.0.0` | fabstird with it | it with itself | ratio | goal | met |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    js = {way: of(JS, f"perf {way}") for way in ("up", "down")}
    for name, against, least in ((GO, GO, 0.5), (JS, JS, 1.0), (RUST, JS, 1.0)):
        for way in ("up", "down"):
            ours, theirs = of(OURS, f"perf {way} {name}"), of(against, f"perf {way}") or js[way]
            if ours is None or theirs is None:
                continue
            met = "yes" if ours >= least * theirs else "no"
            lines.append(
                f"| {way}, with {name} | {ours:,.0f} MB/s | {theirs:,.0f} MB/s ({against}) | {ours / theirs:.2f} | "
                f"≥ {least} x {against} with {against} | {met} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="echo, one way, opens, messages, round trip, tokens, idle, perf")
    given = parser.parse_args()
    load, begun = os.getloadavg()[0], time.monotonic()
    only = {name.strip() for name in given.only.split(",") if name.strip()}
    figures = measure(given.rounds, only)
    print()
    print(table(figures))
    print()
    print(f"Medians of {given.rounds} interleaved rounds. Bare socket, a byte there and back: ", end="")
    print(f"{figures.of('bare', 'round trip') or 0:.0f} µs. ", end="")
    print(f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before; {time.monotonic() - begun:.0f} s.")


if __name__ == "__main__":
    main()
