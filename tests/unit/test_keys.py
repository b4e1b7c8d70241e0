"""Public keys of peers: all four kinds, and nothing that takes long to look at."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fabstird.p2p.security import keys
from tests.support.keys import ECDSA, ED25519, RSA, SECP256K1, KeyIdentity, encoded, rsa_key
from tests.support.wire import Identity, base58_encode


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        (Identity(), "Ed25519"),
        (KeyIdentity(RSA, bits=2048), "RSA"),
        (KeyIdentity(SECP256K1), "Secp256k1"),
        (KeyIdentity(ECDSA), "ECDSA"),
        (KeyIdentity(ECDSA, curve=ec.SECP521R1()), "ECDSA"),
    ],
    ids=["ed25519", "rsa", "secp256k1", "ecdsa", "p521"],
)
def test_all_four_kinds_are_read_and_prove_what_they_sign(identity: Identity, kind: str) -> None:
    key = keys.decode(identity.public_key)
    assert (key.kind, key.peer_id) == (kind, identity.peer_id)
    signature = identity.sign(b"said")
    assert key.verify(b"said", signature)
    assert not key.verify(b"not said", signature)
    assert not key.verify(b"said", b"")


def test_the_largest_rsa_key_fits() -> None:
    assert keys.decode(rsa_key(1024)).kind == "RSA"


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(64),
        rsa_key(128),
        rsa_key(1028),
        rsa_key(60000),
        rsa_key(256, exponent=2**64 + 1),
        encoded(ED25519, bytes(31)),
        encoded(SECP256K1, bytes(33)),
        encoded(ECDSA, bytes(91)),
        encoded(RSA, b""),
        encoded(4, bytes(32)),
        encoded(127, bytes(32)),
        KeyIdentity(ECDSA, curve=ec.SECP256K1()).public_key,
        Identity().public_key + b"\0",
        Identity().public_key[:-1],
        b"",
        b"\x08",
        b"\x08\x80",
    ],
    ids=range(17),
)
def test_what_is_no_key_is_refused_at_once(key: bytes) -> None:
    began = time.process_time()
    with pytest.raises(keys.BadKey):
        keys.decode(key)
    assert time.process_time() - began < 2  # the largest took six; the garbage collector may have its turn


def test_a_key_has_one_peer_id_however_it_is_written() -> None:
    identity = KeyIdentity(SECP256K1)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), identity.public_key[4:])
    numbers = key.public_numbers()
    whole = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    assert keys.decode(encoded(SECP256K1, whole)).peer_id == identity.peer_id


def test_the_peer_id_of_an_ed25519_key_is_the_key_itself() -> None:
    key = Identity().public_key
    assert keys.decode(key).peer_id == base58_encode(b"\0\x24" + key)
