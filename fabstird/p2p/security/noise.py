"""Noise (libp2p specification, noise): the handshake, and the encrypted connection that results from it.

The cryptography is that of the library noiseprotocol. The three messages and the framing are our own: libp2p 0.8.1
reads a connection through six layers of calls, signs its static key anew in each handshake, and stores the Noise key in
place of the peer's own.
"""

from __future__ import annotations

import os
from typing import Any

import trio
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import NoiseConnection

from fabstird.p2p.security import keys
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.security.secured import HandshakeFailed, WrongPeer
from fabstird.p2p.transport.pipe import Pipe, Progress
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.protobuf import NoiseHandshakePayload

NOISE = "/noise"
MAX_PLAINTEXT = 65535 - 16  # bytes of one message; the tag takes the rest
TURN = 256  # messages decrypted before other tasks get a turn, however short they are
_PREFIX = b"noise-libp2p-static-key:"  # of the signed text
_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"


class NoiseConn:
    """An encrypted connection to ``peer_id``, whose key is of type ``key_type``. It has one reader and one writer at a
    time."""

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_more",
        "_pipe",
        "_received",
        "is_initiator",
        "key_type",
        "peer_id",
        "protocol",
    )

    def __init__(self, pipe: Pipe, state: NoiseConnection, peer_id: str, key_type: str) -> None:
        self.protocol = NOISE
        self.is_initiator = pipe.is_initiator
        self.peer_id = peer_id
        self.key_type = key_type
        self._pipe = pipe
        self._received = b""  # received, and not decrypted yet
        self._more = False  # it may contain complete messages
        # Nothing else of the library's state is kept: it holds the handshake's private key, which must not outlive it
        self._encrypt = state.noise_protocol.cipher_state_encrypt.encrypt_with_ad
        self._decrypt = state.noise_protocol.cipher_state_decrypt.decrypt_with_ad

    async def read(self) -> bytes:
        """The contents of all messages received. Raises `ConnectionLost`, and `PeerError` for a message that cannot be
        decrypted, once those before it were returned."""
        while True:
            if self._more:
                await trio.lowlevel.checkpoint()
            if data := self._decrypted():
                return data
            if not self._more:
                more = await self._pipe.read()
                self._received = self._received + more if self._received else more

    def _decrypted(self) -> bytes:
        data, at = self._received, 0
        parts: list[bytes] = []
        while len(parts) < TURN and (start := at + 2) <= len(data):
            if (end := start + int.from_bytes(data[at:start], "big")) > len(data):
                break
            try:
                parts.append(self._decrypt(None, data[start:end]))
            except Exception as error:  # whatever the library raises at a stranger's bytes
                if any(parts):
                    break
                raise PeerError("a message cannot be decrypted") from error
            at = end
        self._received, self._more = data[at:], len(parts) == TURN
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Send all of ``data``, in as many messages as needed. Raises `ConnectionLost`."""
        for start in range(0, len(data), MAX_PLAINTEXT):
            await _send(self._pipe, self._encrypt(None, data[start : start + MAX_PLAINTEXT]))
        if not data and self._pipe.owing:
            await self._pipe.write(b"")

    @property
    def writes_now(self) -> bool:
        """As `Secured.writes_now`."""
        return self._pipe.writes_now

    def write_now(self, data: bytes | bytearray) -> None:
        """As `Secured.write_now`."""
        for start in range(0, len(data), MAX_PLAINTEXT):
            message = self._encrypt(None, data[start : start + MAX_PLAINTEXT])
            self._pipe.write_now(len(message).to_bytes(2, "big") + message)

    @property
    def owing(self) -> bool:
        """As `Secured.owing`."""
        return self._pipe.owing

    def progress(self) -> Progress:
        """The progress of the connection below."""
        return self._pipe.progress()

    async def finish(self) -> None:
        """End our side, and leave reading open. The caller sets the deadline."""
        await self._pipe.finish()

    def finish_now(self) -> None:
        """As `Secured.finish_now`."""
        self._pipe.finish_now()

    async def close(self) -> None:
        """Close the connection below at once."""
        await self._pipe.close()


class Noise:
    """The handshakes of one node. It proves its Noise key by one signature, which is always the same."""

    def __init__(self, key: NodeKey) -> None:
        self._static = KeyPair25519.from_private_bytes(os.urandom(32))
        signature = key.sign(_PREFIX + self._static.public_bytes)
        self._proof = NoiseHandshakePayload(identity_key=key.public, identity_sig=signature).SerializeToString()

    async def secure(self, pipe: Pipe, expected: str | None = None) -> NoiseConn:
        """Shake hands; the dialler begins. ``expected`` is the peer that must be at the other end; None for any. The
        caller sets the deadline.

        Raises `WrongPeer`, `HandshakeFailed`, `ConnectionLost`.
        """
        state = NoiseConnection.from_name(_NAME)
        state.noise_protocol.keypairs["s"] = self._static
        if pipe.is_initiator:
            state.set_as_initiator()
            state.start_handshake()
            handshake = state.noise_protocol.handshake_state  # the library drops it at the end
            await _send(pipe, state.write_message())
            key = _proven(handshake, _read(state, await _receive(pipe)))
            if expected not in (None, key.peer_id):
                raise WrongPeer(f"{key.peer_id} answers there")
            await _send(pipe, state.write_message(self._proof))
        else:
            state.set_as_responder()
            state.start_handshake()
            handshake = state.noise_protocol.handshake_state
            _read(state, await _receive(pipe))
            await _send(pipe, state.write_message(self._proof))
            key = _proven(handshake, _read(state, await _receive(pipe)))
        return NoiseConn(pipe, state, key.peer_id, key.kind)


def _read(state: NoiseConnection, message: bytes) -> bytes:
    try:
        return bytes(state.read_message(message))
    except Exception as error:  # whatever the library raises at a stranger's bytes
        raise HandshakeFailed("a message of the handshake cannot be decrypted") from error


def _proven(handshake: Any, payload: bytes) -> keys.PeerKey:
    """The peer's own key, which has signed the Noise key of this handshake."""
    try:
        proof = NoiseHandshakePayload.FromString(payload)
        key = keys.decode(proof.identity_key)
        proven = key.verify(_PREFIX + handshake.rs.public_bytes, proof.identity_sig)
    except keys.BadKey as error:
        raise HandshakeFailed(f"its key is not taken: {error}") from error
    except Exception as error:  # as in `_read`
        raise HandshakeFailed("its proof of who it is cannot be read") from error
    if not proven:
        raise HandshakeFailed("its signature is wrong")
    return key


async def _send(pipe: Pipe, message: bytes) -> None:
    await pipe.write(len(message).to_bytes(2, "big") + message)


async def _receive(pipe: Pipe) -> bytes:
    return await _exactly(pipe, int.from_bytes(await _exactly(pipe, 2), "big"))


async def _exactly(pipe: Pipe, size: int) -> bytes:
    data = await pipe.read(size)
    while len(data) < size:
        data += await pipe.read(size - len(data))
    return data
