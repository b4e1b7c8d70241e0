"""The cheap dialer of the connection bench: libp2p peers without I/O of their own, thousands of them on one epoll loop.

A `Peer` is fed what its socket received and says what to send: multistream-select, Noise XX, yamux, identify both ways.
The handshake is the one of `tests/support`, whose coroutines await nothing but bytes and so run without an event loop;
what follows is written for speed. A `Dialer` runs in a process of its own, so that it neither delays nor is delayed by
what measures.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import struct
import time
import types
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

from tests.support import noise, yamux
from tests.support.wire import MULTISTREAM, Identity, Reader, WireError, field, lines, propose, varint

IDENTIFY = "/ipfs/id/1.0.0"

_HEADER = struct.Struct(">BBHII")
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8
_MINE = 1  # the stream on which the other side is asked to identify itself

_GREETING = lines(MULTISTREAM)
_AGREED = lines(IDENTIFY)
_REFUSED = lines("na")
_QUESTION = lines(MULTISTREAM, IDENTIFY)
_RECEIVE = 65536


@types.coroutine
def _more() -> Generator[None, bytes, bytes]:
    """The next bytes of the socket, handed in by `Peer.receive`."""
    return (yield)


async def _nothing() -> None:
    pass


class Peer:
    """One identity and its one connection, as the initiator."""

    def __init__(self) -> None:
        identity = self._identity = Identity()
        message = b"".join(
            field(number, data)
            for number, data in (
                (1, identity.public_key),
                (3, IDENTIFY.encode()),
                (5, b"ipfs/0.1.0"),
                (6, b"minipeer/1"),
            )
        )
        self._identify = varint(len(message)) + message
        self.asked = False  # the other side has been told who this is
        self.told = False  # and has told who it is
        self._out = bytearray()
        self._answer = bytearray()
        self._served: dict[int, bytearray | None] = {}  # what came on the other side's streams; None: answered
        self._talk = self._converse()
        self._talk.send(None)

    @property
    def identified(self) -> bool:
        """Both sides know each other."""
        return self.asked and self.told

    def receive(self, data: bytes) -> None:
        """Take what has come from the socket. Raises `WireError`, or StopIteration at the peer's goodbye."""
        self._talk.send(data)

    def take(self) -> bytes:
        """What is to be sent now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    async def _converse(self) -> None:
        reader = Reader(_more)
        await propose(reader, self._write, noise.PROTOCOL)
        channel = await noise.handshake(reader, self._write, self._identity, initiator=True, halfway=_nothing)
        # Channel.send takes turns by a trio lock; here everything is sent by one task, without trio.
        self._seal = channel._sending.encrypt
        secured = Reader(channel.receive)
        await propose(secured, self._send, yamux.PROTOCOL)
        opening = _HEADER.pack(0, _WINDOW, _SYN, _MINE, 0) + _HEADER.pack(0, _DATA, 0, _MINE, len(_QUESTION))
        await self._send(opening + _QUESTION)
        while True:
            _, kind, flags, number, length = _HEADER.unpack(await secured.exactly(_HEADER.size))
            if kind == _PING:
                if flags & _SYN:
                    await self._send(_HEADER.pack(0, _PING, _ACK, 0, length))
            elif kind == _GO_AWAY:
                return
            else:
                data = await secured.exactly(length) if kind == _DATA and length else b""
                await (self._answered(flags, data) if number == _MINE else self._asked(flags, number, data))

    async def _answered(self, flags: int, data: bytes) -> None:
        """Frames of our own stream."""
        answer = self._answer
        answer += data
        prefix = len(_QUESTION)
        if not self.told and len(answer) > prefix + 1:
            if not answer.startswith(_QUESTION):
                raise WireError("the other side does not identify itself")
            low, high = answer[prefix : prefix + 2]
            size = 1 + low if low < 128 else 2 + (low & 127) + (high << 7)
            self.told = high < 128 and len(answer) >= prefix + size
        if flags & _FIN:
            await self._send(_HEADER.pack(0, _WINDOW, _FIN, _MINE, 0))

    async def _asked(self, flags: int, number: int, data: bytes) -> None:
        """Frames of a stream that the other side opened, of which only identify is served."""
        served = self._served
        if flags & _SYN:
            served[number] = bytearray()
            await self._send(_HEADER.pack(0, _WINDOW, _ACK, number, 0))
        text = served.get(number)
        if text is not None:
            text += data
            while text and len(text) > text[0]:
                line = bytes(text[: text[0] + 1])
                del text[: len(line)]
                if line == _AGREED:
                    body = _AGREED + self._identify
                    await self._send(_HEADER.pack(0, _DATA, _FIN, number, len(body)) + body)
                    self.asked, served[number] = True, None
                    break
                reply = _GREETING if line == _GREETING else _REFUSED
                await self._send(_HEADER.pack(0, _DATA, 0, number, len(reply)) + reply)
        if flags & (_FIN | _RST):
            served.pop(number, None)

    async def _write(self, data: bytes) -> None:
        self._out += data

    async def _send(self, data: bytes) -> None:
        sealed = self._seal(data)
        self._out += len(sealed).to_bytes(2, "big") + sealed


class _Loop:
    """Peers on one epoll loop. `live` are those whose socket is open, oldest first."""

    def __init__(self, address: tuple[str, int], control: Connection) -> None:
        self._address = address
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._spare: list[Peer] = []
        self.live: dict[Peer, socket.socket] = {}
        self.lost = 0  # connections that the other side ended, or that failed
        self.last_error = ""

    def run(self) -> None:
        """Obey commands until the pipe is closed; peers are served in between."""
        while True:
            self._poll(None)
            if self._control.poll():
                try:
                    name, arguments = self._control.recv()
                except EOFError:
                    return
                self._control.send(getattr(self, name)(*arguments))

    # ----------------------------------------------------------------------------------------------------------------
    # The commands

    def prepare(self, count: int) -> None:
        """Make identities ahead of their use."""
        self._spare += [Peer() for _ in range(count - len(self._spare))]

    def open(self, count: int, width: int, timeout: float, keep: bool) -> tuple[int, float]:
        """Dial with `count` new peers, `width` at a time, until each has identified or `timeout` has passed; unless
        `keep`, each is dropped as soon as it has. How many got there, and in how many seconds."""
        self.prepare(count)
        begun = time.monotonic()
        done = 0
        busy: list[Peer] = []
        left = count
        while (busy or left) and time.monotonic() < begun + timeout:
            while left and len(busy) < width:
                left -= 1
                busy.append(self._dial(self._spare.pop()))
            self._poll(0.1)
            still: list[Peer] = []
            for peer in busy:
                if peer in self.live and not peer.identified:
                    still.append(peer)
                else:
                    done += peer.identified
                    if not keep:
                        self._drop(peer)
            busy = still
        return done, time.monotonic() - begun

    def drop(self, count: int) -> None:
        """Close the newest peers, without a goodbye."""
        for peer in list(self.live)[len(self.live) - count :]:
            self._drop(peer)

    def standing(self) -> Standing:
        return Standing(len(self.live), self.lost, self.last_error)

    # ----------------------------------------------------------------------------------------------------------------
    # Sockets

    def _dial(self, peer: Peer) -> Peer:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self.live[peer] = connection
        self._selector.register(connection, selectors.EVENT_READ, peer)
        connection.sendall(peer.take())
        return peer

    def _poll(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            peer = key.data
            if peer is None:
                continue  # a command, for `run`
            connection = self.live[peer]
            try:
                data = connection.recv(_RECEIVE)
                if data:
                    peer.receive(data)
                    out = peer.take()
                    if out:
                        connection.sendall(out)  # a few hundred bytes, for which a socket's buffer always has room
                    continue
            except (OSError, WireError, StopIteration) as error:
                if not isinstance(error, StopIteration):
                    self.last_error = repr(error)
            self.lost += 1
            self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        connection = self.live.pop(peer, None)
        if connection is not None:
            self._selector.unregister(connection)
            connection.close()


@dataclass(frozen=True, slots=True)
class Standing:
    """Peers connected now, connections lost so far, and what the last of them said."""

    peers: int
    lost: int
    last_error: str


class Dialer:
    """Peers that dial one address, in a process of their own. Calls return when what they ask for has happened."""

    def __init__(self, address: tuple[str, int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(address, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.join()

    def prepare(self, count: int) -> None:
        self._call("prepare", count)

    def open(self, count: int, *, width: int, timeout: float = 120.0, keep: bool = True) -> float:
        """Seconds until `count` new peers have identified, both ways. Raises RuntimeError where some do not."""
        done, seconds = self._call("open", count, width, timeout, keep)
        if done < count:
            raise RuntimeError(f"{done} of {count} peers were identified within {seconds:.0f} s: {self.standing()}")
        return float(seconds)

    def drop(self, count: int) -> None:
        self._call("drop", count)

    def standing(self) -> Standing:
        standing: Standing = self._call("standing")
        return standing

    def _call(self, name: str, *arguments: Any) -> Any:
        self._control.send((name, arguments))
        return self._control.recv()


def _run(address: tuple[str, int], control: Connection) -> None:
    _Loop(address, control).run()


__all__ = ["Dialer", "Standing"]
