"""The callers of the API's bench: blocking sockets that know as little as they can, so that the server is timed.

All of them are the same program but for the bytes that they send and how they tell where an answer ends.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.anchors import Running

RECEIVE = 1 << 16
STATUS = b'{"jsonrpc":"2.0","id":1,"method":"status"}'
BATCH = 50
STATUSES = b"[" + b",".join([STATUS] * BATCH) + b"]"
ANSWER_MARK = b'"jsonrpc"'  # once in each answer
MASK = b"\0\0\0\0"  # of zeros: masking changes nothing, and costs this side nothing
IDENTIFY = b"\x02\x08\x00"  # go-libp2p-daemon: a length, and {type: IDENTIFY}


@dataclass
class Caller:
    """A connection on which one request is asked over and over."""

    connection: socket.socket
    request: bytes
    whole: Callable[[bytes], bool]
    """Whether these bytes are one whole answer."""
    count: Callable[[bytes], int]
    """How many answers begin in these bytes."""

    def ask(self) -> bytes:
        self.connection.sendall(self.request)
        received = self.connection.recv(RECEIVE)
        while not self.whole(received):
            more = self.connection.recv(RECEIVE)
            assert more, "the server has closed the connection"
            received += more
        return received

    def times(self, calls: int) -> list[float]:
        """Seconds of each of so many calls, one after the other."""
        found = []
        for _ in range(calls):
            begun = time.perf_counter()
            self.ask()
            found.append(time.perf_counter() - begun)
        return found

    def pipelined(self, calls: int, window: int = 128) -> float:
        """Seconds for so many calls, up to two windows of them in flight."""
        requests = self.request * window
        sent = received = 0
        tail = b""
        overlap = len(ANSWER_MARK) - 1
        begun = time.perf_counter()
        while received < calls:
            while sent < calls and sent - received <= window:
                self.connection.sendall(requests)
                sent += window
            data = tail + self.connection.recv(RECEIVE)
            received += self.count(data)
            tail = data[-overlap:] if self.count is marks else b""
        return time.perf_counter() - begun


def marks(data: bytes) -> int:
    return data.count(ANSWER_MARK)


@contextmanager
def ipc(server: Running) -> Iterator[Caller]:
    with unix(server.ipc) as connection:
        yield Caller(connection, STATUS + b"\n", lambda data: data.endswith(b"\n"), marks)


@contextmanager
def identify(server: Running) -> Iterator[Caller]:
    """go-libp2p-daemon. Its answers are all of one length, so bytes count them."""
    with unix(server.ipc) as connection:
        connection.sendall(IDENTIFY)
        received = connection.recv(RECEIVE)
        while len(received) < 2 or len(received) < received[0] + 1:
            received += connection.recv(RECEIVE)
        length, pending = len(received), 0

        def count(data: bytes) -> int:
            nonlocal pending
            whole, pending = divmod(pending + len(data), length)
            return whole

        yield Caller(connection, IDENTIFY, lambda data: len(data) == length, count)


@contextmanager
def websocket(server: Running) -> Iterator[Caller]:
    with upgraded(server) as connection:
        yield Caller(connection, frame(STATUS), _is_frame, marks)


@contextmanager
def batch(server: Running) -> Iterator[Caller]:
    """IPC, `BATCH` calls a line."""
    with unix(server.ipc) as connection:
        yield Caller(connection, STATUSES + b"\n", lambda data: data.endswith(b"\n"), marks)


@contextmanager
def post(server: Running, body: bytes = STATUS) -> Iterator[Caller]:
    head = (
        f"POST /rpc HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nauthorization: Bearer {server.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    def whole(data: bytes) -> bool:
        headers, found, body = data.partition(b"\r\n\r\n")
        if not found:
            return False
        assert headers.startswith(b"HTTP/1.1 200"), data
        return len(body) == int(headers.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])

    with tcp(server.port) as connection:
        yield Caller(connection, head.encode() + body, whole, marks)


# --------------------------------------------------------------------------------------------------------------------


@contextmanager
def unix(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                connection.connect(path)
                break
            except BlockingIOError:  # its backlog is full
                time.sleep(0.01)
        yield connection


@contextmanager
def tcp(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@contextmanager
def upgraded(server: Running) -> Iterator[socket.socket]:
    """A WebSocket whose handshake is done."""
    path = "/ws" if server.token else "/"
    request = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        f"authorization: Bearer {server.token}\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with tcp(server.port) as connection:
        connection.sendall(request.encode())
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1)
        assert b" 101 " in received, received
        yield connection


def frame(text: bytes) -> bytes:
    """A text frame of a client."""
    length = bytes((0x80 | len(text),)) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + length + MASK + text


def _is_frame(data: bytes) -> bool:
    if len(data) < 4:
        return False
    length = data[1]
    return len(data) == (4 + int.from_bytes(data[2:4], "big") if length == 126 else 2 + length)


__all__ = ["BATCH", "Caller", "batch", "frame", "identify", "ipc", "post", "unix", "upgraded", "websocket"]
