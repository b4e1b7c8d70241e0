"""The bytes that every libp2p connection is made of: base58, protobuf fields, identities, multistream-select."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MULTISTREAM = "/multistream/1.0.0"
_ED25519_KEY = b"\x08\x01\x12\x20"  # PublicKey{type: Ed25519, data: 32 bytes}
_LONGEST_LINE = 1024
_SIZES = {1: 8, 2: 0, 5: 4}  # of protobuf's wire types; 0 where the size comes before it

Write = Callable[[bytes], Awaitable[None]]


class Gone(Exception):
    """The stream, or the connection below it, has ended. How that is found depends on what came first: by an end, a
    reset, a failed write. A test that expects an end, and not one way of it, expects this."""


class Ended(Gone, EOFError):
    """The other side has closed before all that was waited for had come."""


class WireError(Exception):
    """The other side said something that libp2p does not allow, or refused what was asked."""


class ProtocolRefused(WireError):
    """multistream-select ended in `na`."""


def base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 58 + BASE58.index(character)
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return b"\0" * (len(text) - len(text.lstrip("1"))) + data


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(message: bytes) -> dict[int, list[bytes]]:
    """The length-delimited fields of a protobuf message by number; numbers are skipped."""
    found: dict[int, list[bytes]] = {}
    for number, value in _parsed(message):
        if isinstance(value, bytes):
            found.setdefault(number, []).append(value)
    return found


def numbers(message: bytes) -> dict[int, int]:
    """The varints of a protobuf message, the last one of each field."""
    return {number: value for number, value in _parsed(message) if isinstance(value, int)}


def _parsed(message: bytes) -> Iterator[tuple[int, int | bytes | None]]:
    """Each field's number, and its varint or its bytes; None for a number of fixed size."""
    at = 0

    def take_varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise WireError("not a protobuf message")
            byte = message[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while at < len(message):
        number, kind = divmod(take_varint(), 8)
        if kind == 0:
            yield number, take_varint()
            continue
        if kind not in _SIZES:
            raise WireError(f"protobuf wire type {kind} is not used by libp2p")
        size = _SIZES[kind] or take_varint()
        if at + size > len(message):
            raise WireError("not a protobuf message")
        yield number, message[at : at + size] if kind == 2 else None
        at += size


class Identity:
    """An Ed25519 key and the peer id that it makes."""

    def __init__(self, seed: bytes | None = None) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed) if seed else Ed25519PrivateKey.generate()
        self.public_key = _ED25519_KEY + self._private.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def peer_id_of(public_key: bytes) -> str:
    """The peer id of a protobuf PublicKey: the key itself if it is short, else its hash."""
    if len(public_key) <= 42:
        return base58_encode(bytes((0, len(public_key))) + public_key)
    return base58_encode(b"\x12\x20" + hashlib.sha256(public_key).digest())


def verify(public_key: bytes, signature: bytes, data: bytes) -> None:
    if not public_key.startswith(_ED25519_KEY) or len(public_key) != 36:
        raise WireError("only Ed25519 identities are understood here")
    try:
        Ed25519PublicKey.from_public_bytes(public_key[4:]).verify(signature, data)
    except InvalidSignature:
        raise WireError("the identity's signature is wrong") from None


class Reader:
    """Exact reads over a function that returns the next bytes, or b"" at the end."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = await self._receive()
            if not data:
                raise Ended("the other side closed")
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def fill(self) -> None:
        """Reads ahead until the end, without handing anything out."""
        while data := await self._receive():
            self._buffer += data
        raise Ended("the other side closed")

    async def some(self) -> bytes:
        """What is there, or the next bytes; b"" at the end."""
        if not self._buffer:
            return await self._receive()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def varint(self) -> int:
        number = shift = 0
        while True:
            byte = (await self.exactly(1))[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise WireError("a varint without end")

    async def line(self) -> str:
        """One multistream-select message."""
        size = await self.varint()
        if not 0 < size <= _LONGEST_LINE:
            raise WireError(f"a multistream-select message of {size} bytes")
        text = await self.exactly(size)
        if not text.endswith(b"\n"):
            raise WireError(f"not multistream-select: {text[:40]!r}")
        return text[:-1].decode("utf-8", "replace")


def lines(*texts: str) -> bytes:
    return b"".join(varint(len(raw) + 1) + raw + b"\n" for raw in (text.encode() for text in texts))


async def propose(reader: Reader, write: Write, protocol: str, *, greeted: bool = False) -> None:
    """multistream-select as the one who asks; `greeted`: the header has gone out already."""
    await write(lines(protocol) if greeted else lines(MULTISTREAM, protocol))
    for expected in (MULTISTREAM, protocol):
        answer = await reader.line()
        if answer == "na":
            raise ProtocolRefused(f"{protocol} was refused")
        if answer != expected:
            raise WireError(f"{protocol} was answered by {answer[:60]!r}")


async def select(reader: Reader, write: Write, supported: Iterable[str], *, greeted: bool = False) -> str:
    """multistream-select as the one who is asked."""
    if not greeted:
        await write(lines(MULTISTREAM))
    known = set(supported)
    header = await reader.line()
    if header != MULTISTREAM:
        raise WireError(f"not multistream-select: {header[:60]!r}")
    while True:
        asked = await reader.line()
        if asked in known:
            await write(lines(asked))
            return asked
        await write(lines("na"))
