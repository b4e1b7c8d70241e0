"""One connection to the daemon on a blocking socket. The twin of `fabstir_client._async.link`, written by hand."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from fabstir_client._core.discovery import (
    CHUNK,
    CONNECT_TIMEOUT,
    RETRY_CONNECT,
    SEND_TIMEOUT,
    Endpoint,
    Target,
    describe,
    unreachable,
)
from fabstir_client._core.protocol import earlier
from fabstir_client._sync.concurrency import now, remaining
from fabstir_client.api.errors import BadAnswer, ConnectionLost, FabstirError


class Link:
    """A connected socket and its framing, for one thread at a time. Only `wake` may be called from any thread."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._socket: socket.socket | None = sock
        self._framing = endpoint.framing()
        self._process = os.getpid()

    @classmethod
    def open(cls, target: Target, deadline: float | None = None) -> Link:
        """A link to the first candidate that answers. Raises `DaemonUnreachable`, at the latest at ``deadline``,
        `Forbidden` or `InvalidConfig`."""
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            began = now()
            ends = earlier(began + CONNECT_TIMEOUT, deadline)
            try:
                return cls.open_at(candidate.endpoint, ends)
            except (OSError, ConnectionLost, BadAnswer) as error:
                tried.append((candidate.label, describe(error, candidate.endpoint.path, within=ends - began)))
        raise unreachable(tried, target)

    @classmethod
    def open_at(cls, endpoint: Endpoint, deadline: float | None = None) -> Link:
        """A link to an endpoint. Raises OSError, `ConnectionLost`, `BadAnswer`, and `Forbidden` for a bad token."""
        deadline = earlier(now() + CONNECT_TIMEOUT, deadline)
        sock = connect_socket(endpoint, deadline)
        link = cls(sock, endpoint)
        try:
            link._write(link._framing.hello(), deadline)
            while not link._framing.ready:
                link._read(deadline)
        except BaseException:
            link.close()
            raise
        return link

    @property
    def closed(self) -> bool:
        return self._socket is None

    def send(self, message: bytes, deadline: float | None = None) -> None:
        """Send a message. Raises `ConnectionLost`, and `TimeoutError` at the deadline."""
        self._write(self._framing.frame(message), deadline)

    def receive(self, deadline: float | None = None) -> list[bytes]:
        """The messages received, at least one. ``deadline`` is a time of the monotonic clock.

        Raises `TimeoutError`, `ConnectionLost`, or the reason that the daemon gave for ending the connection.
        """
        while True:
            messages = self._read(deadline)
            if messages:
                return messages

    def idle(self) -> bool:
        """Whether an idle link can carry another call: the daemon has not closed it meanwhile."""
        while self._socket is not None and self._process == os.getpid():
            try:
                self._socket.setblocking(False)
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            try:
                # Only control frames, such as a ping, may arrive here; no call is waiting for a message.
                self._framing.feed(data)
                self._write(self._framing.outgoing())
            except FabstirError:
                return False
        return False

    def wake(self) -> None:
        """End a wait in another thread: it raises `ConnectionLost`."""
        sock = self._socket
        if sock is not None and self._process == os.getpid():
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has already ended

    def close(self) -> None:
        """Close it at once; does nothing if it is already closed."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if self._process == os.getpid():  # in a forked child, the parent's connection must stay open
            try:
                sock.settimeout(0)
                sock.send(self._framing.goodbye())
            except OSError:
                pass  # only a courtesy: the other side may have gone, or be slow
        sock.close()

    def __del__(self) -> None:
        # An interrupted iteration is dropped without notice: `for` never closes its iterator
        sock = self._socket
        if sock is not None:
            sock.close()

    def _read(self, deadline: float | None) -> list[bytes]:
        sock = self._open_socket()
        try:
            sock.settimeout(None if deadline is None else remaining(deadline))
            data = sock.recv(CHUNK)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
        messages = self._framing.feed(data)
        self._write(self._framing.outgoing())
        return messages

    def _write(self, data: bytes, deadline: float | None = None) -> None:
        if not data:
            return
        sock = self._open_socket()
        ends = earlier(now() + SEND_TIMEOUT, deadline)
        try:
            sock.settimeout(remaining(ends))
            sock.sendall(data)
        except TimeoutError:
            self.close()
            if ends == deadline:
                raise
            raise ConnectionLost(f"the daemon has read nothing for {SEND_TIMEOUT:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLost("the connection to the daemon is closed")
        if self._process != os.getpid():
            raise ConnectionLost("the connection to the daemon belongs to another process")
        return self._socket


def connect_socket(endpoint: Endpoint, deadline: float) -> socket.socket:
    """A connected socket. Raises OSError, and TimeoutError at the deadline."""
    return _connect_tcp(endpoint, deadline) if endpoint.path is None else _connect_unix(endpoint.path, deadline)


def _connect_unix(path: str, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux has no way to wait for room in the backlog of a Unix socket
                if now() >= deadline:
                    raise TimeoutError from None
                time.sleep(RETRY_CONNECT)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _connect_tcp(endpoint: Endpoint, deadline: float) -> socket.socket:
    failure: OSError = ConnectionRefusedError()
    for family, kind, number, _, address in _resolved(endpoint, deadline):
        sock = socket.socket(family, kind, number)
        try:
            sock.settimeout(remaining(deadline))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _resolved(endpoint: Endpoint, deadline: float) -> list[Any]:
    """The addresses of an endpoint. A lookup may take minutes and cannot be cancelled, so it is left to a thread."""
    found: list[Any] = []
    failed: list[OSError] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)

    if endpoint.host.replace(".", "").isdecimal() or ":" in endpoint.host or endpoint.host == "localhost":
        look_up()
    else:
        thread = threading.Thread(target=look_up, name="fabstir_client look-up", daemon=True)
        thread.start()
        thread.join(remaining(deadline))
        if thread.is_alive():
            raise TimeoutError
    if failed:
        raise failed[0]
    return found
