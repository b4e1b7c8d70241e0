"""Noise XX as libp2p speaks it (25519, ChaChaPoly, SHA256), and the encrypted channel that follows."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from .wire import Identity, Reader, WireError, Write, field, fields, peer_id_of, verify

PROTOCOL = "/noise"
_PATTERN = b"Noise_XX_25519_ChaChaPoly_SHA256"
_SIGNED = b"noise-libp2p-static-key:"
_LARGEST_PLAINTEXT = 65535 - 16


class _Cipher:
    """One direction: a key and a counter."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._count = 0

    def _nonce(self) -> bytes:
        nonce = b"\0\0\0\0" + self._count.to_bytes(8, "little")
        self._count += 1
        return nonce

    def encrypt(self, plain: bytes, bound: bytes = b"") -> bytes:
        return self._aead.encrypt(self._nonce(), plain, bound)

    def decrypt(self, sealed: bytes, bound: bytes = b"") -> bytes:
        try:
            return self._aead.decrypt(self._nonce(), sealed, bound)
        except InvalidTag:
            raise WireError("a Noise message does not decrypt") from None


class _Symmetric:
    """The handshake's running hash, chaining key and cipher (sections 5.1 and 5.2 of the Noise specification)."""

    def __init__(self) -> None:
        self.hash = self._chain = _PATTERN
        self._cipher: _Cipher | None = None
        self.mix_hash(b"")

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def _expand(self, secret: bytes) -> tuple[bytes, bytes]:
        root = hmac.digest(self._chain, secret, "sha256")
        first = hmac.digest(root, b"\x01", "sha256")
        return first, hmac.digest(root, first + b"\x02", "sha256")

    def mix_key(self, secret: bytes) -> None:
        self._chain, key = self._expand(secret)
        self._cipher = _Cipher(key)

    def seal(self, plain: bytes) -> bytes:
        sealed = self._cipher.encrypt(plain, self.hash) if self._cipher else plain
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plain = self._cipher.decrypt(sealed, self.hash) if self._cipher else sealed
        self.mix_hash(sealed)
        return plain

    def split(self) -> tuple[_Cipher, _Cipher]:
        first, second = self._expand(b"")
        return _Cipher(first), _Cipher(second)


class Channel:
    """Noise messages over a stream: send() is safe for many tasks, receive() for one."""

    def __init__(self, reader: Reader, write: Write, receiving: _Cipher, sending: _Cipher, peer_id: str) -> None:
        self._reader = reader
        self._write = write
        self._receiving = receiving
        self._sending = sending
        self._turn = trio.Lock()
        self.peer_id = peer_id

    async def send(self, data: bytes) -> None:
        async with self._turn:  # in one piece: whoever is cancelled meanwhile leaves no half of it
            parts = (data[at : at + _LARGEST_PLAINTEXT] for at in range(0, len(data), _LARGEST_PLAINTEXT))
            await self._write(b"".join(_framed(self._sending.encrypt(part)) for part in parts))

    async def forge(self, data: bytes) -> None:
        """Sends a message that is no cipher text."""
        async with self._turn:
            await self._write(_framed(data))

    async def receive(self) -> bytes:
        """The next message; b"" at the end."""
        while True:
            try:
                sealed = await _message(self._reader)
            except EOFError:
                return b""
            if plain := self._receiving.decrypt(sealed):
                return plain


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


async def _message(reader: Reader) -> bytes:
    return await reader.exactly(int.from_bytes(await reader.exactly(2), "big"))


def _who(payload: bytes, static: bytes) -> str:
    """The peer id in a handshake payload, whose signature must bind it to the Noise key."""
    found = fields(payload)
    try:
        key, signature = found[1][0], found[2][0]
    except KeyError:
        raise WireError("a Noise payload without identity") from None
    verify(key, signature, _SIGNED + static)
    return peer_id_of(key)


async def handshake(
    reader: Reader, write: Write, identity: Identity, *, initiator: bool, halfway: Callable[[], Awaitable[None]]
) -> Channel:
    """Runs the handshake; `halfway` is awaited once between its first message and its second."""
    state = _Symmetric()
    static, ephemeral = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = X25519PublicKey.from_public_bytes
    static_public, ephemeral_public = static.public_key().public_bytes_raw(), ephemeral.public_key().public_bytes_raw()
    payload = field(1, identity.public_key) + field(2, identity.sign(_SIGNED + static_public))

    if initiator:
        state.mix_hash(ephemeral_public)
        await write(_framed(ephemeral_public + state.seal(b"")))
        await halfway()
        message = await _message(reader)
        remote = message[:32]
        state.mix_hash(remote)
        state.mix_key(ephemeral.exchange(public(remote)))
        remote_static = state.open(message[32:80])
        state.mix_key(ephemeral.exchange(public(remote_static)))
        peer_id = _who(state.open(message[80:]), remote_static)
        sealed = state.seal(static_public)
        state.mix_key(static.exchange(public(remote)))
        await write(_framed(sealed + state.seal(payload)))
        sending, receiving = state.split()
    else:
        message = await _message(reader)
        remote = message[:32]
        state.mix_hash(remote)
        state.open(message[32:])
        await halfway()
        state.mix_hash(ephemeral_public)
        state.mix_key(ephemeral.exchange(public(remote)))
        sealed = state.seal(static_public)
        state.mix_key(static.exchange(public(remote)))
        await write(_framed(ephemeral_public + sealed + state.seal(payload)))
        message = await _message(reader)
        remote_static = state.open(message[:48])
        state.mix_key(ephemeral.exchange(public(remote_static)))
        peer_id = _who(state.open(message[48:]), remote_static)
        receiving, sending = state.split()
    return Channel(reader, write, receiving, sending, peer_id)
