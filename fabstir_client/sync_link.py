"""One connection to the daemon on a blocking socket: the twin of `link`."""

from __future__ import annotations

import socket
import time

from fabstir_client.discovery import (
    CHUNK,
    CONNECT_TIMEOUT,
    RETRY_CONNECT,
    SEND_TIMEOUT,
    Endpoint,
    Target,
    describe,
    unreachable,
)
from fabstir_client.errors import BadAnswer, ClientTimeout, ConnectionLost, FabstirError
from fabstir_client.protocol import Call, Notification, Pending, Session, T


class SyncLink:
    """A connected socket and its framing, for one thread at a time; `wake` alone may be called from any."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._socket: socket.socket | None = sock
        self._framing = endpoint.framing()

    @classmethod
    def open(cls, target: Target) -> SyncLink:
        """A link to the first candidate that answers. Raises `DaemonUnreachable`, `Forbidden` or `InvalidConfig`."""
        tried: list[tuple[str, str]] = []
        for candidate in target.candidates():
            if candidate.endpoint is None:
                tried.append((candidate.label, candidate.reason))
                continue
            try:
                return cls.open_at(candidate.endpoint)
            except (OSError, ConnectionLost, BadAnswer) as error:
                tried.append((candidate.label, describe(error, candidate.endpoint.path)))
        raise unreachable(tried)

    @classmethod
    def open_at(cls, endpoint: Endpoint) -> SyncLink:
        """A link to that endpoint. Raises OSError, `ConnectionLost`, `BadAnswer`, and `Forbidden` for a bad token."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        if endpoint.path is not None:
            sock = _connect_unix(endpoint.path, deadline)
        else:
            sock = socket.create_connection((endpoint.host, endpoint.port), timeout=CONNECT_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = cls(sock, endpoint)
        try:
            link._write(link._framing.hello())
            while not link._framing.ready:
                link._read(deadline)
        except BaseException:
            link.close()
            raise
        return link

    @property
    def closed(self) -> bool:
        return self._socket is None

    def send(self, message: bytes) -> None:
        """Raises `ConnectionLost`."""
        self._write(self._framing.frame(message))

    def receive(self, deadline: float | None) -> list[bytes]:
        """The messages that came, at least one; ``deadline`` is an instant of the monotonic clock.

        Raises `TimeoutError`, `ConnectionLost`, or what the daemon gave as the reason for ending the connection.
        """
        while True:
            messages = self._read(deadline)
            if messages:
                return messages

    def idle(self) -> bool:
        """Whether it can carry a call: the other side has not closed it while nobody looked."""
        while self._socket is not None:
            try:
                self._socket.setblocking(False)
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            try:
                # Only the framing has something to say here, e.g. a ping; a message would answer nobody's question.
                self._framing.feed(data)
                self._write(self._framing.outgoing())
            except FabstirError:
                return False
        return False

    def wake(self) -> None:
        """End a wait in another thread: it raises `ConnectionLost`."""
        sock = self._socket
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    def close(self) -> None:
        """At once; does nothing where it is closed already."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        try:
            sock.settimeout(0)
            sock.send(self._framing.goodbye())
        except OSError:
            pass  # a courtesy: the other side may be gone, or slow
        sock.close()

    def __del__(self) -> None:
        # An iteration that was broken off is dropped without a word: `for` never closes its iterator.
        sock = self._socket
        if sock is not None:
            sock.close()

    def _read(self, deadline: float | None) -> list[bytes]:
        sock = self._open_socket()
        try:
            sock.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
            data = sock.recv(CHUNK)
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error
        messages = self._framing.feed(data)
        self._write(self._framing.outgoing())
        return messages

    def _write(self, data: bytes) -> None:
        if not data:
            return
        sock = self._open_socket()
        try:
            sock.settimeout(SEND_TIMEOUT)
            sock.sendall(data)
        except TimeoutError:
            self.close()
            raise ConnectionLost(f"the daemon took nothing for {SEND_TIMEOUT:g} s") from None
        except OSError as error:
            raise ConnectionLost(f"the connection to the daemon broke: {describe(error)}") from error

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionLost("the connection to the daemon is closed")
        return self._socket


def request(link: SyncLink, session: Session[None], call: Call[T], early: list[Notification]) -> T:
    """Make one call; notifications that come before its answer go to ``early``.

    Raises `ClientTimeout`, `ConnectionLost` or the daemon's error. Unless the call was answered, the link is closed
    then: what may still come on it would answer nobody's question.
    """
    pending, data = session.begin(call, None)
    deadline = time.monotonic() + call.bound
    try:
        try:
            link.send(data)
        except ConnectionLost:
            pass  # what the daemon said before it closed can still be read, and ends in the same error if nothing
        while pending.outcome is None:
            for message in link.receive(deadline):
                item = session.receive(message)
                if item is not None and not isinstance(item, Pending):
                    early.append(item)
    except TimeoutError:
        link.close()
        raise ClientTimeout(f"the daemon did not answer {call.method} within {call.bound:g} s") from None
    except BaseException:
        link.close()
        raise
    return call.read(pending.take())


def call_once(target: Target, call: Call[T]) -> T:
    """Connect, make one call, and close. Raises as `SyncLink.open` and `request` do."""
    link = SyncLink.open(target)
    try:
        return request(link, Session(), call, [])
    finally:
        link.close()


def _connect_unix(path: str, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                # Linux has no way to wait for room in the queue of a listening Unix socket.
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(RETRY_CONNECT)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
