"""Identities of all kinds that libp2p has, and keys that nobody should take, for `minipeer`."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .wire import Identity, field, peer_id_of

RSA, ED25519, SECP256K1, ECDSA = range(4)
_RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption, NULL


class KeyIdentity(Identity):
    """An identity of another kind than Ed25519: its public key in libp2p's encoding, and what signs."""

    def __init__(self, kind: int, *, bits: int = 2048, curve: ec.EllipticCurve | None = None) -> None:
        self._kind = kind
        if kind == RSA:
            self._rsa = rsa.generate_private_key(65537, bits)
            data = self._rsa.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            self._ec = ec.generate_private_key(ec.SECP256K1() if kind == SECP256K1 else curve or ec.SECP256R1())
            public = self._ec.public_key()
            data = (
                public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
                if kind == SECP256K1
                else public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            )
        self.public_key = encoded(kind, data)
        self.peer_id = peer_id_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        if self._kind == RSA:
            return self._rsa.sign(data, padding.PKCS1v15(), SHA256())
        return self._ec.sign(data, ec.ECDSA(SHA256()))


class FalseIdentity(Identity):
    """One that shows any bytes as its key, and signs with any others."""

    def __init__(self, public_key: bytes, signature: bytes = bytes(256)) -> None:
        self.public_key = public_key
        self.peer_id = peer_id_of(public_key)
        self._signature = signature

    def sign(self, data: bytes) -> bytes:
        return self._signature


def encoded(kind: int, data: bytes) -> bytes:
    """libp2p's message PublicKey."""
    return bytes((0x08, kind)) + field(2, data)


def rsa_key(modulus_bytes: int, exponent: int = 65537) -> bytes:
    """A key of so many bytes that nobody has the other half of."""
    modulus = b"\0" + b"\xff" * modulus_bytes
    numbers = _der(0x30, _der(0x02, modulus) + _der(0x02, exponent.to_bytes(exponent.bit_length() // 8 + 1, "big")))
    return encoded(RSA, _der(0x30, _RSA_ALGORITHM + _der(0x03, b"\0" + numbers)))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
