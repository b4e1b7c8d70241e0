"""One stream to a peer on a blocking socket, used like a file. The twin of `_async.stream`, written by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from fabstir_client._core import calls
from fabstir_client._core.discovery import CHUNK, CONNECT_TIMEOUT, Endpoint, Target, describe, unreachable
from fabstir_client._core.opening import opening
from fabstir_client._core.protocol import Call, earlier, unanswered
from fabstir_client._sync.calling import call_once
from fabstir_client._sync.concurrency import now, remaining
from fabstir_client._sync.link import connect_socket
from fabstir_client.api.errors import ConnectionLost, FabstirError, StreamReset
from fabstir_client.api.streams import OpenedStream


class Stream:
    """Bytes to and from a peer, with half-close. ``about`` is the daemon's description. One thread may read while
    another writes.

    `read` returns ``b""`` once the peer has ended its side, and raises `StreamReset` if the stream was reset: a reset
    never looks like an end. Iterating yields bytes as they arrive.
    """

    def __init__(self, sock: socket.socket, about: OpenedStream, first: bytes, target: Target) -> None:
        self.about = about
        self._socket = sock
        self._first = first
        self._target = target
        self._closed = False

    @classmethod
    def open(cls, target: Target, call: Call[OpenedStream], deadline: float | None = None) -> Stream:
        """Connect, and call ``stream.open`` or ``stream.accept``. Raises the daemon's error, `DaemonUnreachable`,
        `ClientTimeout`."""
        began = now()
        ends = earlier(began + call.bound, deadline)
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            try:
                sock = connect_socket(candidate.endpoint, earlier(now() + CONNECT_TIMEOUT, ends))
            except OSError as error:
                within = min(CONNECT_TIMEOUT, call.bound)
                tried.append((candidate.label, describe(error, candidate.endpoint.path, within=within)))
                continue
            try:
                about, first = _open_on(sock, candidate.endpoint, call, ends)
                sock.settimeout(None)
                return cls(sock, about, first, target)
            except TimeoutError:
                sock.close()
                raise unanswered(call, ends - began) from None
            except BaseException:
                sock.close()
                raise
        raise unreachable(tried, target)

    @property
    def stream_id(self) -> str:
        return self.about.stream_id

    @property
    def peer_id(self) -> str:
        return self.about.peer_id

    @property
    def protocol(self) -> str:
        """The negotiated protocol."""
        return self.about.protocol

    def read(self, size: int = CHUNK) -> bytes:
        """Wait for bytes, and return up to ``size`` of them; ``b""`` once the peer has ended its side."""
        self._check_open()
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        try:
            data = self._socket.recv(size)
        except OSError as error:
            raise self._broken() from error
        if not data and (outcome := self._outcome()) not in (None, "ended"):
            raise StreamReset(f"the stream to {self.peer_id} was cut: {outcome}", outcome=outcome)
        return data

    def write(self, data: bytes) -> int:
        """Write all of ``data``; waits while the peer does not read."""
        self._check_open()
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken() from error
        return len(data)

    def send_eof(self) -> None:
        """End our side; the peer's side goes on."""
        self._check_open()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._broken() from error

    def reset(self) -> None:
        """Reset it in both directions at once, and tell the peer."""
        if not self._closed:
            with contextlib.suppress(FabstirError):  # it may have ended, or the daemon
                call_once(self._target, calls.reset_stream(self.stream_id), now() + CONNECT_TIMEOUT)
        self.close()

    def close(self) -> None:
        """End our side; if the peer then sends more, the stream is reset. A thread that is reading is woken."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):  # it has already ended
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read():
            yield data

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.reset()

    def __del__(self) -> None:
        self._socket.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the stream is closed")

    def _broken(self) -> FabstirError | ValueError:
        if self._closed:
            return ValueError("the stream is closed")
        outcome = self._outcome() or "reset"
        return StreamReset(f"the stream to {self.peer_id} was cut: {outcome}", outcome=outcome)

    def _outcome(self) -> str | None:
        """How the stream ended, which a Unix socket does not always show; None while it is open, or if that is no
        longer known."""
        try:
            for record in call_once(self._target, calls.streams(), now() + CONNECT_TIMEOUT):
                if record.stream_id == self.stream_id:
                    return record.outcome
        except FabstirError:
            return "shutdown"  # the daemon has gone
        return None


def _open_on(
    sock: socket.socket, endpoint: Endpoint, call: Call[OpenedStream], deadline: float
) -> tuple[OpenedStream, bytes]:
    exchange = opening(endpoint, call)
    try:
        sock.settimeout(remaining(deadline))
        sock.sendall(exchange.hello())
        while True:
            sock.settimeout(remaining(deadline))
            if (answer := exchange.feed(sock.recv(CHUNK))) is not None:
                return answer
    except TimeoutError:
        raise
    except OSError as error:
        raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
