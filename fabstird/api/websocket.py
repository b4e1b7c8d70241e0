"""The server's side of a WebSocket, over its bare socket: reads messages, and closes as RFC 6455 requires. A client
that breaks the protocol gets a close frame that says so.

A text message that arrived complete in one read is decoded here. wsproto, created at the first frame of any other kind,
handles the rest; a test checks that both give the same results. A message that is too long is refused as soon as the
head of a frame announces it, before its payload arrives.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Sequence
from typing import Protocol

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage

from fabstird.api.sockets import Outbox, receive
from fabstird.api.websocket_frames import CLOSE, MAX_CONTROL, PING, TOO_BIG, Sizes, complete_texts, frame
from fabstird.rpc.arriving import Arriving

TEXTS = 64  # messages handed over at once; the receiver then yields to other tasks
TURN = 1024  # bytes of small frames read before other tasks get a turn
LINGERING = 1.0  # seconds for a client to read the close frame
TRY_AGAIN_LATER = 1013  # a close code, registered with IANA


class Receiver(Protocol):
    """Receives the messages of a WebSocket."""

    def at_once(self, message: bytes) -> bool:
        """Handle a single message without waiting. Returns False if that is not possible; nothing has been done then,
        and the message comes again in `receive`."""

    async def receive(self, messages: Sequence[bytes]) -> None:
        """Handle messages, in order."""


class WebSocket:
    """A WebSocket whose handshake is done. Its methods raise `trio.BrokenResourceError` and `trio.ClosedResourceError`
    where the client has gone.

    Args:
        sock: The socket to read from.
        outbox: Takes the frames to send. Nothing may be sent through it once `ended`.
        most: The longest message to accept, in bytes.
        arriving: Accounts for the memory of messages that are not complete.
    """

    __slots__ = (
        "_arriving",
        "_failed",
        "_message",
        "_most",
        "_outbox",
        "_partial",
        "_sizes",
        "_sock",
        "_wsproto",
        "ended",
    )

    def __init__(self, sock: trio.socket.SocketType, outbox: Outbox, most: int, arriving: Arriving) -> None:
        self._sock = sock
        self._outbox = outbox
        self._most = most
        self._arriving = arriving
        self._partial = 0  # bytes received of an incomplete message
        self._sizes = Sizes()
        self._wsproto: Connection | None = None
        self._message = bytearray()  # the fragments received of a message
        self.ended = False  # a close frame was sent or queued, and nothing more is read
        self._failed = False  # the client broke the protocol or a limit

    async def read(self, first: bytes, receiver: Receiver) -> None:
        """Pass messages to ``receiver`` until the WebSocket is closed by either side. ``first`` was read after the
        handshake."""
        data = first or await receive(self._sock)
        while data:
            await self._parse(data, receiver)
            if self.ended:
                return
            if not self._partial:
                data = await receive(self._sock)
                continue
            with self._arriving.until(math.inf) as scope:
                data = await receive(self._sock)
            if scope.cancelled_caught:
                self._fail(TRY_AGAIN_LATER, "the message took too long, and other callers need its memory")
                return

    def ping(self) -> None:
        """Send a ping, unless something waits to be sent."""
        if self._outbox.clear and not self.ended:
            self._outbox.write(frame(PING, b""))

    def end(self, code: int, reason: str) -> None:
        """Send a close frame, unless one was sent."""
        if not self.ended:
            self._end(frame(CLOSE, struct.pack("!H", code) + _cut(reason)))

    async def leave(self, *, linger: bool) -> None:
        """Wait until the close frame is sent; call this once `ended`. With ``linger``, and after a failure, give the
        client a moment to read it: closing a socket with unread bytes resets the connection, which could discard the
        frame."""
        await self._outbox.flush()
        if not (linger or self._failed):
            return
        with trio.move_on_after(LINGERING):
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise trio.BrokenResourceError from error
            while await receive(self._sock):
                pass

    # ----------------------------------------------------------------------------------------------------------------

    async def _parse(self, data: bytes, receiver: Receiver) -> None:
        """Handle bytes received. A tiny frame costs as much as a large one, so other tasks get a turn every `TURN`
        bytes."""
        at = 0
        while at < len(data) and not self.ended:
            if self._sizes.between:
                texts, after = complete_texts(data, at, TEXTS, self._most)
                if texts:
                    at = after
                    if len(texts) > 1 or not receiver.at_once(texts[0]):
                        await receiver.receive(texts)
                    continue
            if at:
                await trio.lowlevel.checkpoint()
            part = data[at : at + (self._sizes.left or TURN)]
            at += len(part)
            if self._sizes.feed(part) > self._most:
                self._fail(TOO_BIG, f"[api] max_request_bytes allows {self._most} bytes")
            else:
                await self._by_wsproto(part, receiver)
                self._partial = 0 if self._sizes.between else self._partial + len(part)
                await self._arriving.received(self._partial)

    async def _by_wsproto(self, part: bytes, receiver: Receiver) -> None:
        if self._wsproto is None:
            self._wsproto = Connection(ConnectionType.SERVER)
        self._wsproto.receive_data(part)
        for event in self._wsproto.events():
            if isinstance(event, Message):
                self._message += event.data.encode() if isinstance(event, TextMessage) else event.data
                if event.message_finished:
                    message, self._message = bytes(self._message), bytearray()
                    self._arriving.complete = True
                    if not receiver.at_once(message):
                        await receiver.receive([message])
                    self._arriving.leave()
            elif isinstance(event, Ping):
                self._outbox.write(self._wsproto.send(event.response()))
                if not self._outbox.clear:
                    await self._outbox.flush()
            elif isinstance(event, CloseConnection):
                if self._wsproto.state is ConnectionState.REMOTE_CLOSING:
                    self._end(self._wsproto.send(event.response()))
                else:  # wsproto found a violation of the protocol
                    self._fail(event.code, event.reason or "")
                return

    def _fail(self, code: int, reason: str) -> None:
        self._failed = True
        self.end(code, reason)

    def _end(self, last: bytes) -> None:
        self.ended = True
        self._outbox.write(last)
        self._outbox.end()


def _cut(reason: str) -> bytes:
    """The reason in UTF-8, cut to the length that a close frame can hold."""
    return reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
