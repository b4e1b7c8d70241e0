"""WebSocket frames on the server's side (RFC 6455, section 5), without I/O. Data of binary messages is passed on piece
by piece, so a message of any size needs no memory."""

from __future__ import annotations

import base64
import hashlib
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PROTOCOL_ERROR, TOO_BIG = 1002, 1009
MAX_TEXT = 1024  # bytes of a text message
MAX_CONTROL = 125  # bytes of a control frame; fixed by the specification

_FINAL, _MASKED, _RESERVED = 0x80, 0x80, 0x70
_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Violation(OSError):
    """The client breaks the WebSocket protocol. ``code`` is for the close frame."""

    def __init__(self, words: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(words)
        self.code = code


def accept_key(key: bytes) -> bytes:
    """The handshake's answer to the client's ``Sec-WebSocket-Key``."""
    return base64.b64encode(hashlib.sha1(key + _KEY_SUFFIX, usedforsecurity=False).digest())


def switching(key: bytes, chosen: bytes) -> list[bytes]:
    """The lines of a response by which a connection becomes a WebSocket, of the subprotocol ``chosen``, if any."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Accept: " + accept_key(key),
    ]
    return [*lines, b"Sec-WebSocket-Protocol: " + chosen] if chosen else lines


def frame(kind: int, data: bytes | memoryview) -> bytes:
    """A complete message in one frame, unmasked, as servers send it."""
    size = len(data)
    if size < 126:
        head = bytes((_FINAL | kind, size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FINAL | kind, 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | kind, 127, size)
    return head + data


def _sizes(head: bytes | bytearray) -> tuple[int, int] | None:
    """The sizes of a frame's head and payload in bytes; None until the head is complete."""
    if len(head) < 2:
        return None
    size = head[1] & 0x7F
    wide = {126: 2, 127: 8}.get(size, 0)
    end = 2 + wide + (4 if head[1] & _MASKED else 0)
    if len(head) < end:
        return None
    return end, int.from_bytes(head[2 : 2 + wide], "big") if wide else size


def complete_texts(data: bytes, at: int, count: int, longest: int) -> tuple[list[bytes], int]:
    """The complete text messages in ``data``.

    Args:
        data: Bytes received.
        at: Where to begin.
        count: How many messages to take at most.
        longest: The longest payload, in bytes.

    Returns:
        The messages, each from one frame, and where they end. They stop before anything else, valid or not.
    """
    texts: list[bytes] = []
    size = len(data)
    while len(texts) < count and size - at >= 6 and data[at] == _FINAL | TEXT and data[at + 1] & _MASKED:
        length, start = data[at + 1] & 0x7F, at + 6
        if length == 127:
            break  # more than one read returns
        if length == 126:
            length, start = data[at + 2] << 8 | data[at + 3], at + 8
            if length < 126:
                break  # a length that is not in its shortest form
        end = start + length
        if length > longest or end > size:
            break
        text = _unmasked(data[start:end], data[start - 4 : start])
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                break
        texts.append(text)
        at = end
    return texts, at


def _unmasked(data: bytes, mask: bytes) -> bytes:
    if mask == b"\0\0\0\0":
        return data
    size = len(data)
    masks = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(masks, "big")).to_bytes(size, "big")


class Sizes:
    """The declared length of the message being received, from the heads of its frames: a message that is too long is
    known before it arrives."""

    __slots__ = ("_head", "_in_message", "_message", "left")

    def __init__(self) -> None:
        self._head = bytearray()  # of a frame, until it is complete
        self.left = 0  # bytes of a frame's payload that are missing
        self._message = 0  # size of the message's earlier frames
        self._in_message = False

    @property
    def between(self) -> bool:
        """Whether the next byte begins a message, or a control frame between messages."""
        return not (self.left or self._head or self._in_message)

    def feed(self, data: bytes) -> int:
        """Read bytes received. Returns the size of the longest message that they belong to."""
        longest, at = self._message, 0
        while at < len(data):
            if self.left:
                skipped = min(self.left, len(data) - at)
                self.left -= skipped
                at += skipped
                continue
            self._head.append(data[at])
            at += 1
            longest = max(longest, self._end_of_head())
        return longest

    def _end_of_head(self) -> int:
        """The message's size if the head is complete; 0 until then, and for control frames."""
        head = self._head
        sizes = _sizes(head)
        if sizes is None:
            return 0
        size = sizes[1]
        self._head, self.left = bytearray(), size
        if head[0] & 0x0F >= CLOSE:
            return 0
        length = self._message + size
        self._in_message = not head[0] & _FINAL
        self._message = length if self._in_message else 0
        return length


class FrameReader:
    """Parses frames: `feed` takes bytes received, `next` returns pieces."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._message = 0  # TEXT or BINARY while a fragmented message is under way
        self._kind = CONTINUATION  # of the frame being read, or of its message
        self._final = True  # it is the last frame of its message
        self._left = -1  # bytes of its payload that are missing; -1 between frames
        self._mask = b""
        self._text = bytearray()

    def feed(self, data: bytes) -> None:
        self._received += data

    def next(self, most: int) -> tuple[int, bytes] | None:
        """The next piece, of ``most`` bytes at most, of a binary message, or a complete text message or control frame;
        its kind comes first. None where none is complete. Raises `Violation`."""
        while True:
            if self._left < 0 and not self._head():
                return None
            if self._kind >= CLOSE:
                if len(self._received) < self._left:
                    return None
                return self._kind, self._payload(self._left)
            if self._left and not self._received:
                return None
            piece = self._payload(min(self._left, most))
            if self._kind == BINARY:
                if piece:
                    return BINARY, piece
                continue
            self._text += piece
            if self._left < 0 and self._final:
                text, self._text = bytes(self._text), bytearray()
                return TEXT, text

    def _head(self) -> bool:
        """Read the head of a frame if it is complete."""
        received = self._received
        if len(received) >= 2 and (received[0] & _RESERVED or not received[1] & _MASKED):
            raise Violation("a frame that is not masked, or of an extension")
        sizes = _sizes(received)
        if sizes is None:
            return False
        end, size = sizes
        self._begin(received[0] & 0x0F, bool(received[0] & _FINAL), size)
        self._mask = bytes(received[end - 4 : end])
        del received[:end]
        return True

    def _begin(self, kind: int, final: bool, size: int) -> None:
        if kind in (CLOSE, PING, PONG):
            if size > MAX_CONTROL or not final:
                raise Violation("a control frame that is too long, or fragmented")
            self._kind = kind
        elif kind in (TEXT, BINARY, CONTINUATION):
            if (kind == CONTINUATION) is not bool(self._message):
                raise Violation("a new message inside a fragmented one, or a continuation of none")
            self._kind = kind or self._message
            self._final = final
            self._message = 0 if final else self._kind
            if self._kind == TEXT and len(self._text) + size > MAX_TEXT:
                raise Violation(f"a text message of more than {MAX_TEXT} bytes", TOO_BIG)
        else:
            raise Violation(f"a frame of type {kind}")
        self._left = size

    def _payload(self, size: int) -> bytes:
        """Up to ``size`` bytes of the frame's payload, unmasked."""
        piece = bytes(self._received[:size])
        del self._received[: len(piece)]
        self._left -= len(piece)
        unmasked = _unmasked(piece, self._mask)
        offset = len(piece) % 4
        self._mask = self._mask[offset:] + self._mask[:offset]
        if not self._left:
            self._left = -1
        return unmasked
