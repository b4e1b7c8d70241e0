"""A WebSocket over its bare socket, server's side: messages in, and an end as RFC 6455 has it. Whatever the client does
wrong, a close frame tells it.

A text message that stands whole in what was read is taken here; wsproto, made for the first frame that is anything
else, has the rest: a test holds the two equal. A message's size is what the heads of its frames announce, and is judged
before it has come.
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
from fabstird.api.websocket_frames import CLOSE, MAX_CONTROL, PING, TOO_BIG, Sizes, frame, whole_texts
from fabstird.rpc.arriving import Arriving

TEXTS = 64  # taken together; whoever takes them yields to others afterwards
TURN = 1024  # bytes of small frames read before other tasks get a turn
LINGERING = 1.0  # seconds for a client to read why its WebSocket is closed
TRY_AGAIN_LATER = 1013  # a close code, registered with IANA


class Taker(Protocol):
    """Whom messages are for."""

    def at_once(self, message: bytes) -> bool:
        """Take a message that came alone; whether that needed no waiting. Where it did, nothing has been done."""

    async def take(self, messages: Sequence[bytes]) -> None:
        """Take messages, in their order."""


class WebSocket:
    """A message may have ``most`` bytes, for which ``arriving`` has room while they come. What is sent goes through
    ``outbox``, in frames; none may follow once `ended`. Its methods raise `trio.BrokenResourceError` and
    `trio.ClosedResourceError` where the client has gone."""

    __slots__ = (
        "_arriving",
        "_coming",
        "_failed",
        "_message",
        "_most",
        "_outbox",
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
        self._coming = 0  # bytes of a message that is not whole
        self._sizes = Sizes()
        self._wsproto: Connection | None = None
        self._message = bytearray()  # the parts of one that have come
        self.ended = False  # a close frame is on its way, and nothing more is read
        self._failed = False  # because of what the client did

    async def read(self, first: bytes, taker: Taker) -> None:
        """Hand over messages, those in ``first`` before others, until the client closes, has gone or is told what it
        does wrong."""
        data = first or await receive(self._sock)
        while data:
            await self._take(data, taker)
            if self.ended:
                return
            if not self._coming:
                data = await receive(self._sock)
                continue
            with self._arriving.until(math.inf) as scope:
                data = await receive(self._sock)
            if scope.cancelled_caught:
                self._fail(TRY_AGAIN_LATER, "others wait for the place of a message that does not come")
                return

    def ping(self) -> None:
        """Where nothing waits to be sent."""
        if self._outbox.clear and not self.ended:
            self._outbox.write(frame(PING, b""))

    def end(self, code: int, reason: str) -> None:
        """Send a close frame, where none is on its way."""
        if not self.ended:
            self._end(frame(CLOSE, struct.pack("!H", code) + _cut(reason)))

    async def leave(self, *, linger: bool) -> None:
        """Once `ended`: see the close frame out. Where the client has failed, and with ``linger``, it has a moment to
        read it: what it has sent meanwhile, and nobody has read, would have the frame thrown away."""
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

    async def _take(self, data: bytes, taker: Taker) -> None:
        """A frame of a few bytes takes as long as one of many: after some of them it is other tasks' turn."""
        at = 0
        while at < len(data) and not self.ended:
            if self._sizes.between:
                texts, after = whole_texts(data, at, TEXTS, self._most)
                if texts:
                    at = after
                    if len(texts) > 1 or not taker.at_once(texts[0]):
                        await taker.take(texts)
                    continue
            if at:
                await trio.lowlevel.checkpoint()
            part = data[at : at + (self._sizes.left or TURN)]
            at += len(part)
            if self._sizes.feed(part) > self._most:
                self._fail(TOO_BIG, f"[api] max_request_bytes allows {self._most} bytes")
            else:
                await self._by_wsproto(part, taker)
                self._coming = 0 if self._sizes.between else self._coming + len(part)
                await self._arriving.came(self._coming)

    async def _by_wsproto(self, part: bytes, taker: Taker) -> None:
        if self._wsproto is None:
            self._wsproto = Connection(ConnectionType.SERVER)
        self._wsproto.receive_data(part)
        for event in self._wsproto.events():
            if isinstance(event, Message):
                self._message += event.data.encode() if isinstance(event, TextMessage) else event.data
                if event.message_finished:
                    message, self._message = bytes(self._message), bytearray()
                    self._arriving.whole = True
                    if not taker.at_once(message):
                        await taker.take([message])
                    self._arriving.leave()
            elif isinstance(event, Ping):
                self._outbox.write(self._wsproto.send(event.response()))
                if not self._outbox.clear:
                    await self._outbox.flush()
            elif isinstance(event, CloseConnection):
                if self._wsproto.state is ConnectionState.REMOTE_CLOSING:
                    self._end(self._wsproto.send(event.response()))
                else:  # wsproto refuses to go on
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
    """As much of it as a close frame holds, in whole characters."""
    return reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
