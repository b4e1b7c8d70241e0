"""A WebSocket that has become a stream: its bytes as binary messages, read from and written to the bare socket, so that
the socket alone decides how much is taken."""

from __future__ import annotations

import os
import socket
import struct

import trio

from fabstir_client.api.streams import Outcome
from fabstird.api.websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, Violation, frame

FRAME = 16 * 1024  # bytes of data in a frame that we send; a frame waits here until it is sent completely
NORMAL, RESET = 1000, 4000  # close codes
GOODBYE = 1.0  # seconds for a client to take our last frames and answer the close
END = b'{"end":true}'  # the text message that ends one side


class LocalWebSocket:
    """A stream over the socket of a WebSocket whose handshake is done. ``first`` was read after the handshake.

    A client that closes with `RESET`, or disconnects without a close frame, resets the stream. Any other close ends its
    side; if the peer then sends more, the stream is reset.
    """

    def __init__(self, sock: trio.socket.SocketType, first: bytes = b"") -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._frames = FrameReader()
        self._frames.feed(first)
        self._fed = bool(first)  # `_frames` may hold a message
        self._unsent = b""  # frames, or their rest, that the socket has not taken
        self._pong: bytes | None = None
        self._ended = False  # the client sends no more
        self._gone = False  # it has closed the WebSocket
        self._code = RESET

    # ----------------------------------------------------------------------------------------------------------------
    # To the client

    def take(self, data: memoryview) -> int:
        """Write as much as the socket takes now. Raises OSError where the client has gone."""
        if self._gone:
            raise BrokenPipeError
        taken = 0
        while taken < len(data) and self._flush():
            part = data[taken : taken + FRAME]
            self._unsent = frame(BINARY, part)
            taken += len(part)
        self._flush()
        return taken

    def end(self) -> None:
        """End the peer's side. Raises OSError where the client has gone."""
        self._unsent += frame(TEXT, END)
        self._flush()

    def ping(self) -> None:
        """Send a ping, unless data waits to be sent. Raises OSError where the client has gone."""
        if self._flush() and not self._gone:
            self._unsent = frame(PING, b"")
            self._flush()

    async def writable(self) -> None:
        await trio.lowlevel.wait_writable(self._fd)

    def _flush(self) -> bool:
        """Write what waits to be sent; returns whether all of it was written."""
        if not self._unsent and self._pong is not None:
            self._unsent, self._pong = frame(PONG, self._pong), None
        if self._unsent:
            try:
                self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
            except BlockingIOError:
                pass
        return not self._unsent

    # ----------------------------------------------------------------------------------------------------------------
    # From the client

    async def readable(self) -> None:
        if not self._fed:
            await trio.lowlevel.wait_readable(self._fd)

    def read(self, most: int) -> bytes | None:
        """Up to ``most`` of the bytes received; empty at the end, None where there are none yet. Raises OSError where
        the client has reset the stream."""
        if not self._fed:
            try:
                data = os.read(self._fd, most)
            except BlockingIOError:
                return None
            if not data:
                raise ConnectionResetError("the client disconnected without a close frame")
            self._frames.feed(data)
            self._fed = True
        return self._next(most)

    def _next(self, most: int) -> bytes | None:
        while (found := self._frames.next(most)) is not None:
            kind, data = found
            if kind == BINARY and not self._ended:
                return data
            if kind == TEXT and data.replace(b" ", b"") == END:
                self._ended = True
                return b""
            if kind == CLOSE:
                self._ended = self._gone = True
                if len(data) >= 2 and struct.unpack("!H", data[:2])[0] == RESET:
                    raise ConnectionResetError("the client has reset the stream")
                return b""
            if kind == PING:
                self._pong = data
                self._flush()
            elif kind != PONG:
                raise Violation('data after the end, or a text other than {"end":true}')
        self._fed = False
        return None

    def gone(self) -> bool:
        """Whether the client has closed. After it has ended its side, it is still read for pings and its close."""
        if self._ended and not self._gone:
            try:
                while not self._gone and (self._fed or self.read(FRAME) is not None):
                    self._next(FRAME)
            except OSError:
                self._gone = True
        return self._gone

    # ----------------------------------------------------------------------------------------------------------------

    def close(self, outcome: Outcome) -> None:
        """Record how the stream ended; `goodbye` closes the socket."""
        self._code = NORMAL if outcome == "ended" else RESET

    async def goodbye(self) -> None:
        """Send the rest and a close frame, then wait a moment for the client's. Closing at once could discard our last
        frames if the client is still sending."""
        self._unsent += frame(CLOSE, struct.pack("!H", self._code))
        with trio.move_on_after(GOODBYE, shield=True):
            try:
                while not self._flush():
                    await self.writable()
                self._sock.shutdown(socket.SHUT_WR)
                while not self._gone:
                    await trio.lowlevel.wait_readable(self._fd)
                    if not os.read(self._fd, FRAME):
                        break
            except (OSError, trio.ClosedResourceError):
                pass  # the client has gone
        self._sock.close()
