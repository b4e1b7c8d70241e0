"""The two ends of streams for the bench: the same blocking programs at fabstird and at go-libp2p-daemon.

A stream is a socket to them, once it is open. `Serving` is the program at the far end, a process of its own:
`python -m bench.stream_ends fabstird|p2pd SOCKET`, which says `ready`, and serves until it is killed.

On a stream, the opener says in eight bytes how much it will send, and in one what is to be done with it: `ECHO` sends
it back, `SINK` answers with a byte when all has come, `HOLD` keeps the stream. Nobody half-closes, since
go-libp2p-daemon does not hand that on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol

from tests.support.wire import field, fields, varint

PROTOCOL = "/bench/streams/1.0.0"
ECHO, SINK, HOLD = b"e", b"s", b"h"
CHUNK = 256 * 1024
HEAD = struct.Struct("!Qc")

IDENTIFY, CONNECT, STREAM_OPEN, STREAM_HANDLER = range(4)  # of go-libp2p-daemon's requests

Json = dict[str, Any]


class Opener(Protocol):
    """A daemon at which streams are opened."""

    def open(self) -> socket.socket:
        """A stream to the serving program at the other daemon."""


def unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


# ----------------------------------------------------------------------------------------------------------------------
# fabstird


def call(path: str, method: str, **params: Any) -> Any:
    """One call on a connection of its own."""
    with unix(path) as connection:
        return _answered(connection, method, params)


def stream(path: str, method: str, **params: Any) -> socket.socket:
    """`stream.open` or `stream.accept`."""
    connection = unix(path)
    _answered(connection, method, params)
    return connection


def _answered(connection: socket.socket, method: str, params: Json) -> Any:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    connection.sendall(line.encode() + b"\n")
    found = b""
    while not found.endswith(b"\n"):
        ahead = connection.recv(CHUNK, socket.MSG_PEEK)  # what follows the newline is the stream
        if not ahead:
            raise RuntimeError(f"{method}: the daemon has closed the connection")
        found += connection.recv(ahead.find(b"\n") + 1 or len(ahead))
    answer = json.loads(found)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


class Fabstird:
    def __init__(self, path: str, peer_id: str, protocol: str = PROTOCOL) -> None:
        self._path = path
        self._wanted = {"peerId": peer_id, "protocol": protocol}

    def open(self) -> socket.socket:
        return stream(self._path, "stream.open", **self._wanted)


def serve_fabstird(path: str) -> None:
    with unix(path) as owner, owner.makefile("rb") as lines:
        _answered(owner, "protocol.handle", {"protocol": PROTOCOL, "mode": "stream", "backlog": 64})
        print("ready", flush=True)
        for line in lines:
            told = json.loads(line)
            if told["method"] == "stream.incoming":
                _serve(stream(path, "stream.accept", streamId=told["params"]["streamId"]))


# ----------------------------------------------------------------------------------------------------------------------
# go-libp2p-daemon: protobuf messages behind their length, in the order of its p2pd.proto


class GoDaemon:
    def __init__(self, path: str, peer_id: bytes) -> None:
        self._path = path
        self._request = message(STREAM_OPEN, (3, field(1, peer_id) + field(2, PROTOCOL.encode())))

    def open(self) -> socket.socket:
        connection = unix(self._path)
        connection.sendall(self._request)
        _answer(connection)
        return connection


def identify(path: str) -> tuple[bytes, list[bytes]]:
    """Peer id and addresses."""
    with unix(path) as connection:
        connection.sendall(message(IDENTIFY))
        found = fields(fields(_answer(connection))[4][0])
    return found[1][0], found[2]


def connect(path: str, peer_id: bytes, addresses: list[bytes]) -> None:
    with unix(path) as connection:
        about = field(1, peer_id) + b"".join(field(2, address) for address in addresses)
        connection.sendall(message(CONNECT, (2, about)))
        _answer(connection)


def serve_p2pd(path: str) -> None:
    with tempfile.TemporaryDirectory(prefix="p2pd-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen(1024)
        address = f"{folder}/s".encode().lstrip(b"/")
        with unix(path) as connection:
            # a multiaddr: /unix (400) with a path
            binary = varint(400) + varint(len(address) + 1) + b"/" + address
            about = field(1, binary) + field(2, PROTOCOL.encode()) + varint(3 << 3) + b"\0"
            connection.sendall(message(STREAM_HANDLER, (4, about)))
            _answer(connection)
        print("ready", flush=True)
        while True:
            stream, _ = listener.accept()
            exactly(stream, length(stream))  # who opens it
            _serve(stream)


def _answer(connection: socket.socket) -> bytes:
    body = exactly(connection, length(connection))
    found = fields(body)
    if 2 in found:
        raise RuntimeError(f"go-libp2p-daemon: {fields(found[2][0])[1][0]!r}")
    return body


def message(kind: int, *parts: tuple[int, bytes]) -> bytes:
    body = b"\x08" + varint(kind) + b"".join(field(number, part) for number, part in parts)
    return varint(len(body)) + body


def length(connection: socket.socket) -> int:
    value = shift = 0
    while True:
        (byte,) = exactly(connection, 1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7


# ----------------------------------------------------------------------------------------------------------------------
# What is served


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


_held: list[socket.socket] = []


def _serve(connection: socket.socket) -> None:
    """One stream after the other: those that are held go on beside."""
    with contextlib.suppress(EOFError, OSError):
        size, what = HEAD.unpack(exactly(connection, HEAD.size))
        if what == HOLD:
            connection.sendall(b".")
            _held.append(connection)
            return
        room = memoryview(bytearray(CHUNK))
        left = size
        while left:
            came = connection.recv_into(room, min(left, CHUNK))
            if not came:
                break
            left -= came
            if what == ECHO:
                connection.sendall(room[:came])
        if what == SINK:
            connection.sendall(b".")
        while connection.recv_into(room, CHUNK):  # the opener ends it
            pass
    connection.close()


@contextlib.contextmanager
def serving(kind: str, path: str) -> Iterator[None]:
    """The program at the far end, as a process."""
    from bench.anchors import running

    with running([sys.executable, "-m", "bench.stream_ends", kind, path], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield


if __name__ == "__main__":
    {"fabstird": serve_fabstird, "p2pd": serve_p2pd}[sys.argv[1]](sys.argv[2])
    os._exit(0)
