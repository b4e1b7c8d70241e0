# Made by scripts/unasync from fabstir_client/_async/listening.py: change that, and run it again.
"""Streams and messages that peers open on a protocol, for programs without an event loop.

A listener has its own connection, on which the daemon notifies it. When that breaks, it reconnects and handles the
protocol again; open streams go on.
"""

from __future__ import annotations

import base64
from collections import deque
from types import TracebackType

from fabstir_client._core import calls
from fabstir_client._core.cursor import FIRST_DELAY, LAST_DELAY
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Call, Notification, Pending, Session
from fabstir_client._sync.calling import call_once, request
from fabstir_client._sync.concurrency import Closeable, Flag, Serving
from fabstir_client._sync.link import Link
from fabstir_client._sync.stream import Stream
from fabstir_client.api.errors import BadAnswer, ClientTimeout, ConnectionLost, DaemonUnreachable, FabstirError
from fabstir_client.api.streams import HandleParams, HandleResult, OpenedStream, ProtocolRequest, StreamIncoming


class StreamOpening:
    """The result of `Client.open_stream`. Entering it returns the `Stream`; leaving it by an exception resets the
    stream."""

    def __init__(self, target: Target, call: Call[OpenedStream]) -> None:
        self._target = target
        self._call = call
        self._stream: Stream | None = None

    def __enter__(self) -> Stream:
        self._stream = Stream.open(self._target, self._call)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._stream is not None
        if kind is None:
            self._stream.close()
        else:
            self._stream.reset()


class Handling(Closeable):
    """Handles one protocol, and receives the daemon's notices about it; a context manager. Base of `StreamListener` and
    `RequestListener`."""

    def __init__(self, target: Target, params: HandleParams) -> None:
        self._target = target
        self._params = params
        self._link: Link | None = None
        self._session: Session[None] = Session()
        self._arrived: deque[Notification] = deque()
        self._closed = Flag()
        self._delay = FIRST_DELAY

    def __enter__(self) -> Handling:
        self._handle()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop handling the protocol; whoever waits is woken. Open streams go on."""
        self._closed.set()
        link = self._link  # a listener in another thread drops it as soon as it is woken
        if link is not None:
            link.wake()
            link.close()

    def _handle(self) -> HandleResult:
        """Handle the protocol. Raises `InvalidState` where another connection handles it, and as entering the client
        does."""
        link = Link.open(self._target)
        self._session = Session()
        self._arrived.clear()  # streams announced on the old connection are reset by now
        try:
            result = request(link, self._session, calls.handle(self._params), self._early())
        except BaseException:
            link.close()
            raise
        self._link = link
        self._delay = FIRST_DELAY
        return result

    def _early(self) -> list[Notification]:
        return []  # there are no notices before the answer

    def _notification(self) -> Notification | None:
        """The next notification; None after `close`."""
        while not self._closed.is_set():
            if self._arrived:
                return self._arrived.popleft()
            if self._link is None:
                self._reconnect()
                continue
            try:
                for message in self._link.receive():
                    item = self._session.receive(message)
                    if item is not None and not isinstance(item, Pending):
                        self._arrived.append(item)
            except (ConnectionLost, BadAnswer):
                self._link.close()
                self._link = None
        return None

    def _reconnect(self) -> None:
        try:
            self._handle()
        except FabstirError as error:
            temporary = (ConnectionLost, DaemonUnreachable, BadAnswer, ClientTimeout)
            if not error.retryable and not isinstance(error, temporary):
                raise
            self._closed.wait(self._delay)
            self._delay = min(self._delay * 2, LAST_DELAY)


class StreamListener(Handling, Serving):
    """Peers' streams on a protocol: `serve` them side by side, or take them one by one with `accept` or by
    iterating."""

    def __enter__(self) -> StreamListener:
        self._handle()
        return self

    def accept(self) -> Stream:
        """The next stream. Raises `ConnectionLost` after `close`."""
        stream = self._next()
        if stream is None:
            raise ConnectionLost("the listener is closed")
        return stream

    def __iter__(self) -> StreamListener:
        return self

    def __next__(self) -> Stream:
        stream = self._next()
        if stream is None:
            raise StopIteration
        return stream

    def _next(self) -> Stream | None:
        while (notice := self._notification()) is not None:
            if isinstance(notice, StreamIncoming):
                try:
                    return Stream.open(self._target, calls.accept_stream(notice.stream_id))
                except (FabstirError, OSError):
                    continue  # it was reset meanwhile, or waited too long
        return None


class IncomingRequest:
    """A peer's message that waits for an answer."""

    def __init__(self, target: Target, notice: ProtocolRequest, data: bytes) -> None:
        self.peer_id = notice.peer_id
        self.protocol = notice.protocol
        self.data = data
        self.deadline = notice.deadline  # ms since the Unix epoch
        self._target = target
        self._id = notice.request_id

    def respond(self, data: bytes) -> None:
        """Answer the message. Raises `InvalidState` where it is no longer waiting."""
        call_once(self._target, calls.respond(self._id, data))


class RequestListener(Handling):
    """Peers' messages on a protocol, each to be answered; an iterator."""

    def __enter__(self) -> RequestListener:
        self._handle()
        return self

    def __iter__(self) -> RequestListener:
        return self

    def __next__(self) -> IncomingRequest:
        while (notice := self._notification()) is not None:
            if isinstance(notice, ProtocolRequest):
                try:
                    return IncomingRequest(self._target, notice, self._data(notice))
                except FabstirError:
                    continue  # it has ended meanwhile
        raise StopIteration

    def _data(self, notice: ProtocolRequest) -> bytes:
        if notice.data is not None:
            return base64.b64decode(notice.data)
        return base64.b64decode((call_once(self._target, calls.read_request(notice.request_id))).data)
