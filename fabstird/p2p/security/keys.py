"""Keys of nodes: our own, from its seed, and peers', with the peer ids that follow from them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from fabstird.identity import Identity
from fabstird.p2p.wire import peer_ids, varint
from fabstird.p2p.wire.protobuf import Envelope, PeerRecord, Voucher

KEY_TYPES = {"RSA", "Ed25519", "Secp256k1", "ECDSA"}  # go-libp2p's spelling
MAX_ENCODED = 1126  # bytes, 1.1 KiB: an RSA key of 8,192 bits has 1,071, and reading a key of 60 KB takes seconds
MAX_INLINE = 42  # bytes of a key that is its own peer id; longer ones are hashed
MIN_RSA, MAX_RSA = 2048, 8192  # bits
MAX_EXPONENT = 2**31 - 1  # of an RSA key, since verifying takes time that grows with it. Go allows no more
CURVES = ("secp256r1", "secp384r1", "secp521r1")
RECORD_DOMAIN = b"libp2p-peer-record"  # the purpose of an envelope's signature (libp2p's RFC 0003)
VOUCHER_DOMAIN, VOUCHER_TYPE = b"libp2p-relay-rsvp", b"\x03\x02"
RECORD_TYPE = b"\x03\x01"  # the envelope's payload type, as every implementation writes it


class NodeKey:
    """Our own key. ``seed`` is the Ed25519 private key, ``public`` the public one in libp2p's encoding."""

    def __init__(self, seed: bytes) -> None:
        self._private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        self._last = 0  # sequence number of the record signed last
        self.peer_id = Identity.from_seed(seed).peer_id
        self._multihash = peer_ids.to_bytes(self.peer_id)
        self.public = self._multihash[2:]  # such a short key is its own peer id, after a code and a length

    def sign(self, data: bytes) -> bytes:
        return self._private.sign(data)

    def secret(self, purpose: bytes) -> bytes:
        """32 secret bytes for this purpose, the same in each run of the node."""
        return hashlib.sha256(self.sign(b"fabstird: " + purpose)).digest()

    def sign_addresses(self, addresses: tuple[bytes, ...]) -> bytes:
        """A signed peer record of these multiaddrs, in its envelope (libp2p's RFC 0003 and RFC 0002).

        Each record has a higher sequence number than the one before, across runs of the node, as long as the machine's
        clock does not go back.
        """
        self._last = max(self._last + 1, time.time_ns())
        record = PeerRecord(peer_id=self._multihash, seq=self._last)
        for address in addresses:
            record.addresses.add(multiaddr=address)
        return self._sealed(RECORD_DOMAIN, RECORD_TYPE, record.SerializeToString())

    def sign_voucher(self, peer: bytes, expires: int) -> bytes:
        """A voucher, in its envelope, that the peer with this multihash has a reservation at our relay until
        ``expires`` (seconds since the Unix epoch; libp2p specification, relay/circuit-v2)."""
        voucher = Voucher(relay=self._multihash, peer=peer, expiration=expires)
        return self._sealed(VOUCHER_DOMAIN, VOUCHER_TYPE, voucher.SerializeToString())

    def _sealed(self, domain: bytes, kind: bytes, payload: bytes) -> bytes:
        signed = b"".join(varint.encode(len(part)) + part for part in (domain, kind, payload))
        envelope = Envelope(payload_type=kind, payload=payload, signature=self.sign(signed))
        envelope.public_key.ParseFromString(self.public)
        return envelope.SerializeToString()


@dataclass(frozen=True, slots=True)
class PeerKey:
    """A peer's public key. ``kind`` is one of `KEY_TYPES`."""

    peer_id: str
    kind: str
    verify: Callable[[bytes, bytes], bool]  # takes the data and its signature


class BadKey(ValueError):
    """The public key is not accepted; the message says why."""


def decode(encoded: bytes) -> PeerKey:
    """A public key in libp2p's encoding (libp2p specification, peer ids). Raises `BadKey`.

    Its peer id is computed from the specification's canonical encoding, whichever encoding the peer has used.
    """
    if len(encoded) > MAX_ENCODED:
        raise BadKey(f"a key of {len(encoded)} bytes; {MAX_ENCODED} are taken at most")
    number, data = _fields(encoded)
    kind = _KINDS.get(number)
    if kind is None:
        raise BadKey(f"a key of type {number}, which libp2p does not have")
    try:
        canonical, verify = kind.load(data)
    except BadKey:
        raise
    except Exception as error:  # whatever the library raises at a stranger's bytes
        raise BadKey(f"it cannot be read as a key of type {kind.name}") from error
    packed = bytes((0x08, number, 0x12)) + varint.encode(len(canonical)) + canonical
    multihash = b"\0" + bytes((len(packed),)) + packed if len(packed) <= MAX_INLINE else _sha256(packed)
    return PeerKey(peer_ids.to_text(multihash), kind.name, verify)


def _sha256(data: bytes) -> bytes:
    return b"\x12\x20" + hashlib.sha256(data).digest()


def _fields(encoded: bytes) -> tuple[int, bytes]:
    """The two fields of the message, in the order that the specification requires."""
    if len(encoded) < 4 or encoded[0] != 0x08 or encoded[1] >= 0x80 or encoded[2] != 0x12:
        raise BadKey("it is no key in libp2p's encoding")
    try:
        length = varint.decode(encoded, 3, longest=2)
    except ValueError as error:
        raise BadKey("it is no key in libp2p's encoding") from error
    if length is None or length[1] + length[0] != len(encoded):
        raise BadKey("it is no key in libp2p's encoding")
    return encoded[1], encoded[length[1] :]


_Loaded = tuple[bytes, Callable[[bytes, bytes], bool]]


def _checked(check: Callable[[bytes, bytes], None]) -> Callable[[bytes, bytes], bool]:
    """A function that returns whether the signature is valid, from ``check``, which takes signature and data and raises
    where it is not."""

    def verify(data: bytes, signature: bytes) -> bool:
        try:
            check(signature, data)
        except InvalidSignature:
            return False
        return True

    return verify


def _load_rsa(data: bytes) -> _Loaded:
    key = load_der_public_key(data)
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadKey("it is no RSA key")
    if not MIN_RSA <= key.key_size <= MAX_RSA:
        raise BadKey(f"an RSA key of {key.key_size} bits; {MIN_RSA} to {MAX_RSA} are taken")
    if key.public_numbers().e > MAX_EXPONENT:
        raise BadKey("an RSA key with an unusual exponent")
    return _der(key), _checked(lambda signature, data: key.verify(signature, data, padding.PKCS1v15(), SHA256()))


def _load_ed25519(data: bytes) -> _Loaded:
    return data, _checked(ed25519.Ed25519PublicKey.from_public_bytes(data).verify)


def _load_secp256k1(data: bytes) -> _Loaded:
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint), _checked(_ecdsa(key))


def _load_ecdsa(data: bytes) -> _Loaded:
    key = load_der_public_key(data)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise BadKey(f"it is no ECDSA key on one of the curves {', '.join(CURVES)}")
    return _der(key), _checked(_ecdsa(key))


def _ecdsa(key: ec.EllipticCurvePublicKey) -> Callable[[bytes, bytes], None]:
    return lambda signature, data: key.verify(signature, data, ec.ECDSA(SHA256()))


def _der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    load: Callable[[bytes], _Loaded]


_KINDS = {
    0: _Kind("RSA", _load_rsa),
    1: _Kind("Ed25519", _load_ed25519),
    2: _Kind("Secp256k1", _load_secp256k1),
    3: _Kind("ECDSA", _load_ecdsa),
}
