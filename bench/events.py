"""What an event costs: from a peer's connection to the last of many subscribers, and a burst of thousands to many.

Beside a Node `ws` server that serialises each event once and sends it to all. Subscribers are plain sockets on one
epoll loop, which count messages and read nothing else of them.

usage: .venv/bin/python -m bench.events [--rounds N]
"""

from __future__ import annotations

import argparse
import re
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from bench import anchors, clients
from bench.anchors import Running
from bench.minipeer import Dialer
from bench.table import Row, table

SUBSCRIBERS = 1000
BURST_SUBSCRIBERS = 100
BURST = 5000
TIMEOUT = 60.0
RECEIVE = 1 << 18
MARK = b'"method":"event"'  # once in each notification
TIME = re.compile(rb'"time":(\d+)')
SUBSCRIBE = b'{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{"types":["peer:connect"]}}'


class Crowd:
    """Subscribed connections."""

    def __init__(self, connections: list[socket.socket]) -> None:
        self._epoll = select.epoll()
        self._connections = {connection.fileno(): connection for connection in connections}
        self._tails = dict.fromkeys(self._connections, b"")
        self.last = b""  # what was received last
        for connection in connections:
            connection.setblocking(False)
            self._epoll.register(connection, select.EPOLLIN)

    def read(self, messages: int) -> None:
        """Return when so many notifications have come, to all together."""
        deadline = time.monotonic() + TIMEOUT
        overlap = len(MARK) - 1
        tails = self._tails
        buffer = bytearray(RECEIVE)  # one for all: to allocate one for each read would cost more than the read
        view = memoryview(buffer)
        size = 0
        while messages > 0:
            assert time.monotonic() < deadline, f"{messages} notifications have not come"
            for descriptor, _ in self._epoll.poll(1.0):
                tail = tails[descriptor]
                buffer[: len(tail)] = tail
                size = len(tail) + self._connections[descriptor].recv_into(view[len(tail) :])
                messages -= buffer.count(MARK, 0, size)
                tails[descriptor] = bytes(view[max(0, size - overlap) : size])
        self.last = bytes(view[:size])

    def close(self) -> None:
        self._epoll.close()


@contextmanager
def crowd(server: Running, transport: str, count: int) -> Iterator[Crowd]:
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            if transport == "ipc":
                connection = stack.enter_context(clients.unix(server.ipc))
                connection.sendall(SUBSCRIBE + b"\n")
            else:
                connection = stack.enter_context(clients.upgraded(server))
                connection.sendall(clients.frame(SUBSCRIBE))
            assert b'"result"' in connection.recv(RECEIVE)
            connections.append(connection)
        found = Crowd(connections)
        stack.callback(found.close)
        yield found


@dataclass
class Contender:
    """One server's events over one transport."""

    name: str
    server: Running
    transport: str
    found: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds a delivery

    def once(self, subscribers: int, events: int, begin: Callable[[], object]) -> tuple[float, float]:
        """Seconds from ``begin`` to the last delivery, and from the event's own time to it. What it tells by is its
        `time`, in whole milliseconds, so that it is over-estimated by half of one."""
        with crowd(self.server, self.transport, subscribers) as listening:
            time.sleep(0.2)
            before, begun = self.server.cpu(), time.perf_counter()
            begin()
            listening.read(subscribers * events)
            took, now = time.perf_counter() - begun, time.time()
            self.cpu.append((self.server.cpu() - before) / (subscribers * events))
            times = TIME.findall(listening.last)
            return took, now - int(times[-1]) / 1000


def measure(rounds: int) -> list[Row]:
    return [*_one_event(rounds), *_burst(max(3, rounds // 3)), *_subscribers(max(3, rounds // 3))]


def _subscribers(rounds: int) -> list[Row]:
    """A `subscribe` on a WebSocket whose handshake is done, and the memory of a thousand, connections and all."""
    with ExitStack() as stack:
        node = stack.enter_context(anchors.node())
        daemon = stack.enter_context(anchors.fabstird(node__auto_start=False))
        took: dict[str, list[float]] = {"node": [], "fabstird": []}
        memory: dict[str, list[float]] = {"node": [], "fabstird": []}
        for number in range(rounds + 1):
            for name, server in (("node", node), ("fabstird", daemon)):
                before = server.resident()
                with ExitStack() as connections:
                    times = []
                    for _ in range(SUBSCRIBERS):
                        connection = connections.enter_context(clients.upgraded(server))
                        begun = time.perf_counter()
                        connection.sendall(clients.frame(SUBSCRIBE))
                        assert b'"result"' in connection.recv(RECEIVE)
                        times.append(time.perf_counter() - begun)
                    if number == 0:  # memory is kept for those that come later
                        memory[name].append((server.resident() - before) / SUBSCRIBERS)
                    else:
                        took[name].append(statistics.median(times))
    theirs, ours = (statistics.median(took[name]) for name in ("node", "fabstird"))
    size, own = memory["node"][0], memory["fabstird"][0]
    words = [f"{seconds * 1e6:.0f} µs" for seconds in (theirs, ours)]
    sizes = [f"{one / 1000:.1f} kB" for one in (size, own)]
    return [
        Row("/ws, subscribe, p50", "Node ws", *words, ours / theirs, most=1.5),
        Row(f"memory of a /ws subscriber, {SUBSCRIBERS:,} of them", "Node ws", *sizes, own / size, most=3.0),
    ]


def _one_event(rounds: int) -> list[Row]:
    with ExitStack() as stack:
        node, daemon = stack.enter_context(anchors.node()), stack.enter_context(anchors.fabstird())
        address = anchors.status(daemon)["listenAddresses"][0]
        dialer = stack.enter_context(Dialer(("127.0.0.1", int(address.split("/")[4]))))
        theirs = Contender("Node ws broadcast", node, "ws")
        ours = [Contender("IPC", daemon, "ipc"), Contender("ws", daemon, "ws")]
        for number in range(rounds + 1):
            theirs.found.append(theirs.once(SUBSCRIBERS, 1, lambda: _burst_of(node, 1))[1])
            for one in ours:
                dialer.prepare(1)
                one.found.append(one.once(SUBSCRIBERS, 1, lambda: dialer.open(1, width=1))[1])
                dialer.drop(1)
            if number == 0:  # warmed
                for one in (theirs, *ours):
                    one.found.clear()
                    one.cpu.clear()
    rows = []
    for one, most in zip(ours, (0.5, None), strict=True):
        rows.append(
            Row(
                f"peer up → event at the last of {SUBSCRIBERS:,} {one.name} subscribers",
                theirs.name,
                _milliseconds(theirs),
                _milliseconds(one),
                statistics.median(one.found) / statistics.median(theirs.found),
                most=most,
            )
        )
    return rows


def _burst(rounds: int) -> list[Row]:
    with ExitStack() as stack:
        node = stack.enter_context(anchors.node())
        daemon = stack.enter_context(anchors.fabstird(host=True, node__auto_start=False))
        theirs = Contender("Node ws broadcast", node, "ws")
        ours = [Contender("IPC", daemon, "ipc"), Contender("ws", daemon, "ws")]
        for _ in range(rounds):
            for one in (theirs, *ours):
                server = one.server
                took, _ = one.once(BURST_SUBSCRIBERS, BURST, lambda server=server: _burst_of(server, BURST))
                one.found.append(BURST_SUBSCRIBERS * BURST / took)
    rows = []
    for one, least in zip(ours, (4.0, 0.3), strict=True):
        rows.append(
            Row(
                f"burst of {BURST:,} events to {BURST_SUBSCRIBERS} subscribers, {one.name}",
                theirs.name,
                _rate(theirs),
                _rate(one),
                statistics.median(one.found) / statistics.median(theirs.found),
                least=least,
            )
        )
    return rows


def _burst_of(server: Running, events: int) -> None:
    """Have a server publish events, on a connection of its own, without waiting for the answer."""
    call = b'{"jsonrpc":"2.0","id":1,"method":"bench.burst","params":{"events":%d}}' % events
    if server.ipc:
        with clients.unix(server.ipc) as connection:
            connection.sendall(call + b"\n")
            connection.recv(RECEIVE)
    else:
        with clients.upgraded(server) as connection:
            connection.sendall(clients.frame(call))


def _milliseconds(one: Contender) -> str:
    cpu = statistics.median(one.cpu) * 1e6
    return f"{statistics.median(one.found) * 1000:.1f} ms, {cpu:.1f} µs CPU"


def _rate(one: Contender) -> str:
    return f"{statistics.median(one.found) / 1000:.0f}k/s, {statistics.median(one.cpu) * 1e6:.2f} µs CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    print(table(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
