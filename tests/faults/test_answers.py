"""While a stranger does his worst, the daemon answers at once and obeys SIGTERM.

A process of its own asks it 20 times a second, whether it has answered or not, and asks a second daemon, which nobody
attacks, as often. What the second needs for an answer is the machine's doing, and is allowed to the first as well; and
so is the time for which a daemon's loop waited for a processor.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import DialFailed
from tests.faults.conftest import SILENT
from tests.faults.test_random_bytes import WEB_SOCKET
from tests.faults.test_strangers import endpoint
from tests.harness import Daemon, fabstird, process, until
from tests.support.keys import FalseIdentity, rsa_key
from tests.support.minipeer import IDENTIFY, Connection, ConnectionLost, Identity, Stream, StreamReset, mini_peer
from tests.support.wire import MULTISTREAM, field, lines, varint

pytestmark = pytest.mark.alone

ASKED = 50  # times, 20 a second
LATE = 0.5  # seconds
STOP = 5.0  # seconds
PATIENCE = 60.0
HEADER, SYN, RST = struct.Struct(">BBHII"), 1, 8  # of yamux
EMPTY = b"\x01\n"  # a line of multistream-select
ANSWERS = 1024  # bytes in which a negotiation is refused
ASK = """
import json, socket, sys, threading, time
method, times, *daemons = sys.argv[1:]
late = {daemon: [] for daemon in daemons}
def clock(pid):  # which stands while the daemon's loop could run and has no processor
    with open(f"/proc/{pid}/task/{pid}/schedstat") as stat:
        return time.monotonic() - int(stat.read().split()[1]) / 1e9
def ask(sock, pid, asked):
    due = time.monotonic()
    for number in range(int(times)):
        time.sleep(max(0, due - time.monotonic()))
        asked.append(clock(pid))
        sock.sendall(b'{"jsonrpc":"2.0","id":%d,"method":"%s"}\\n' % (number, method.encode()))
        due += 0.05
def listen(daemon):
    pid, path = daemon.split(":")
    sock, asked = socket.socket(socket.AF_UNIX), []
    sock.settimeout(60)
    sock.connect(path)
    threading.Thread(target=ask, args=(sock, pid, asked)).start()
    for _, answer in zip(range(int(times)), sock.makefile("rb")):
        answer = json.loads(answer)
        assert "result" in answer, answer
        late[daemon].append(clock(pid) - asked[answer["id"]])
threads = [threading.Thread(target=listen, args=(daemon,)) for daemon in daemons]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(len(one) == int(times) for one in late.values())
print(json.dumps(list(late.values())))
"""
Attack = Callable[[Daemon], Awaitable[None]]


@pytest.fixture(scope="module")
def control() -> Iterator[str]:
    """A daemon that nobody attacks, as `ASK` takes it: its process, and its IPC socket."""
    with process() as running:
        trio.run(running.started)
        yield f"{running.pid}:{running.api['ipc']}"


async def big_keys(daemon: Daemon) -> None:
    """In the third message of a handshake, in the second, and in identify, which also has a signed record of it."""
    key = rsa_key(60000)

    async def identify(stream: Stream) -> None:
        message = field(1, key) + field(8, field(1, key) + field(2, b"\x03\x01") + field(3, bytes(100)))
        await stream.send_all(varint(len(message)) + message)
        await stream.close()

    async with mini_peer(identity=FalseIdentity(key)) as attacker, mini_peer() as teller:
        teller.handle(IDENTIFY, identify)
        trap = await attacker.listen()
        while True:
            with trio.fail_after(PATIENCE), pytest.raises(ConnectionLost):
                await attacker.dial(daemon.address("tcp"))
            with pytest.raises(DialFailed):
                await daemon.call("connect", address=trap)
            link = await teller.dial(daemon.address("tcp"))
            await link.ping()
            await link.aclose()


async def lines_over_tcp(daemon: Daemon) -> None:
    while True:
        await negotiate(daemon, "tcp", b"", lines(MULTISTREAM) + EMPTY * 250_000)


async def lines_over_ws(daemon: Daemon) -> None:
    flood = lines(MULTISTREAM) + EMPTY * 250_000
    while True:
        await negotiate(daemon, "ws", WEB_SOCKET, b"\x82\xff" + len(flood).to_bytes(8, "big") + bytes(4) + flood)


async def negotiate(daemon: Daemon, transport: str, before: bytes, data: bytes) -> None:
    """A negotiation without end, which the daemon ends, and does not answer line by line until then."""
    heard = 0

    async def say(data: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # it has heard enough
            await stream.send_all(data)

    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream(*endpoint(daemon, transport)) as stream, trio.open_nursery() as nursery:
            if before:
                await stream.send_all(before)
                while not (await stream.receive_some()).endswith(b"\r\n\r\n"):
                    pass
            nursery.start_soon(say, data)
            with suppress(trio.BrokenResourceError):
                while answers := await stream.receive_some():
                    heard += len(answers)
                    assert heard < ANSWERS, "it answers one line after the other"
            nursery.cancel_scope.cancel()


async def lines_in_streams(daemon: Daemon) -> None:
    """Whose answers are not read until a window is full of lines: then all of them were taken in one go."""

    async def flood(link: Connection) -> None:
        with trio.fail_after(PATIENCE):
            stream = await link.open_stream(None)
            try:
                with trio.move_on_after(1):  # by then the daemon waits for a window, or has ended it
                    await stream.send_all(lines(MULTISTREAM) + EMPTY * 250_000)
                await stream.grant(1 << 24)
                while True:
                    await stream.receive_exactly(1)
            except (StreamReset, EOFError):
                pass  # ended, as it must be

    async with mini_peer() as attacker:
        link = await attacker.dial(daemon.address("tcp"))
        while True:
            await flood(link)


async def unread_pings(daemon: Daemon) -> None:
    """From a peer that reads nothing; see `test_freezes.py` for what they did to its connection."""
    pings = b"".join(HEADER.pack(0, 2, SYN, 0, number) for number in range(5000))
    async with mini_peer() as attacker:
        link = await attacker.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=attacker.peer_id)
        link.freeze_reading()
        while True:
            with trio.fail_after(PATIENCE):
                await link.inject(pings)
            await trio.sleep(0.01)


async def opened_and_reset(daemon: Daemon) -> None:
    """Streams, 300 kB a second of them and more: none of them counts as open."""
    async with mini_peer() as attacker:
        link = await attacker.dial(daemon.address("tcp"))
        number = 1001
        while True:
            frames = bytearray()
            for one in range(number, number + 4000, 2):
                frames += HEADER.pack(0, 1, SYN, one, 0) + HEADER.pack(0, 1, RST, one, 0)
            number += 4000
            await link.inject(bytes(frames))


async def slow_names(daemon: Daemon) -> None:
    """`NAMES` are its bootstrap nodes; as many are asked for by callers."""
    await until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/task")) >= 16, within=PATIENCE)

    async def connect(name: str) -> None:
        with pytest.raises(DialFailed):
            await daemon.call("connect", address=name)

    async with trio.open_nursery() as nursery:
        for name in names("caller", 40):
            nursery.start_soon(connect, name)


async def unread_log(daemon: Daemon) -> None:
    """Each call is a line, and nobody reads the pipe that they go to."""
    peer_id = Identity().peer_id
    while True:
        await daemon.call("peer.tag", peerId=peer_id, tag="test", value=1)


def waiting_in(pipe: int) -> int:
    """How many bytes nobody has read of it."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def names(kind: str, count: int) -> list[str]:
    return [f"/dns4/{kind}{number}.test/tcp/4001/p2p/{Identity().peer_id}" for number in range(count)]


@asynccontextmanager
async def attacked(attack: Attack, silent_names: list[str], directory: Path) -> AsyncIterator[Daemon]:
    """A daemon in the circumstances that an attack needs."""
    if attack is slow_names:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((SILENT, 53))
            nodes = names("bootstrap", 60)
            async with fabstird(prefix=silent_names, bootstrap_nodes=nodes, dial_timeout=600000) as daemon:
                yield daemon
    elif attack is unread_log:
        pipe = directory / "stderr"
        os.mkfifo(pipe)
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            async with fabstird(prefix=["sh", "-c", f'exec "$@" 2>{pipe}', "sh"]) as daemon:
                peer_id = Identity().peer_id
                with trio.fail_after(PATIENCE):
                    while waiting_in(reading) < 60_000:
                        await daemon.call("peer.tag", peerId=peer_id, tag="test", value=1)
                yield daemon
                assert len(os.read(reading, 1 << 20)) >= 60_000, "the pipe is full"
        finally:
            os.close(reading)
    else:
        async with fabstird() as daemon:
            yield daemon


ATTACKS: list[Attack] = [
    *(big_keys, lines_over_tcp, lines_over_ws, lines_in_streams),
    *(unread_pings, opened_and_reset, slow_names, unread_log),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_every_call_is_answered_and_sigterm_obeyed(
    attack: Attack, control: str, silent_names: list[str], tmp_path: Path
) -> None:
    stopping = False

    async def go_on() -> None:
        try:
            await attack(daemon)
        except Exception:
            if not stopping:  # else the daemon is gone, as it should be
                raise

    async with attacked(attack, silent_names, tmp_path) as daemon:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            method = "peer.bans" if attack is slow_names else "status"  # which once went by way of a thread
            ask = [sys.executable, "-c", ASK, method, str(ASKED), f"{daemon.process.pid}:{daemon.path}", control]
            asked = await trio.run_process(ask, capture_stdout=True)
            late, noise = (max(one) for one in json.loads(asked.stdout))
            stopping, began = True, trio.current_time()
            daemon.process.terminate()
            with trio.fail_after(PATIENCE):
                assert await daemon.process.wait() == 0
            stopped = trio.current_time() - began
            nursery.cancel_scope.cancel()
        print(f"{late:.3f} s for an answer at most, {noise:.3f} s without attack; ended {stopped:.2f} s after SIGTERM")
        assert late < LATE + noise, f"{late:.2f} s for an answer, {noise:.2f} s where nobody attacks"
        assert stopped < STOP + noise
