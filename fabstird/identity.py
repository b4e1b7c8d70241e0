"""The node's identity: an Ed25519 key in the file format that all libp2p implementations share, and its peer id.

It does not import libp2p, so the peer id is known before the API's first answer. The format is the protobuf
``PrivateKey`` of the libp2p specification (peer-ids.md), as kubo and js-libp2p write it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabstird import base58
from fabstird.datadir import read_regular, write_whole

_PRIVATE = b"\x08\x01\x12\x40"  # Type = Ed25519, Data of 64 bytes: seed, public key
_PUBLIC = b"\x08\x01\x12\x20"  # Type = Ed25519, Data of 32 bytes
_KEY_TYPES = {0: "RSA", 2: "Secp256k1", 3: "ECDSA"}
MAX_FILE = 64 * 1024  # bytes read of the file, which has 68


class IdentityError(Exception):
    """The identity file cannot be used. It is never overwritten; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """``seed`` is the 32-byte Ed25519 private key, ``peer_id`` base58btc text."""

    seed: bytes
    peer_id: str

    def __repr__(self) -> str:  # keeps the seed out of logs
        return f"Identity({self.peer_id})"

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        # A key of at most 42 bytes is its own "identity" multihash: code 0x00, length 0x24 (peer-ids.md)
        return cls(seed, base58.encode(b"\x00\x24" + _PUBLIC + public))


def load_or_make(path: Path) -> Identity:
    """Read the identity, or create one where there is no file. Raises `IdentityError`."""
    try:
        content = read_regular(path, MAX_FILE)
    except FileNotFoundError:
        return _make(path)
    except OSError as error:
        raise IdentityError(f"identity {path}: {error.strerror}") from error
    return Identity.from_seed(_decode(content, path))


def _make(path: Path) -> Identity:
    seed = os.urandom(32)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    try:
        write_whole(path, _PRIVATE + seed + public)
    except OSError as error:
        raise IdentityError(f"identity {path}: cannot be written: {error.strerror}") from error
    return Identity.from_seed(seed)


def _decode(content: bytes, path: Path) -> bytes:
    cure = "restore it from a backup, or move it away to start with a new peer id"
    if len(content) >= 2 and content[0] == 0x08 and content[1] in _KEY_TYPES:
        kind = _KEY_TYPES[content[1]]
        raise IdentityError(f"identity {path} holds a key of type {kind}; only Ed25519 is supported; {cure}")
    if not content.startswith(_PRIVATE) or len(content) != len(_PRIVATE) + 64:
        raise IdentityError(
            f"identity {path} is damaged: {len(content)} bytes that are no libp2p Ed25519 private key; {cure}"
        )
    seed, public = content[4:36], content[36:]
    if Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != public:
        raise IdentityError(f"identity {path} is damaged: its two halves do not belong together; {cure}")
    return seed
