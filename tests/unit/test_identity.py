"""The identity file: every libp2p's format, the peer id that follows from it, and damage that is never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from base58 import b58encode
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.rsa import create_new_key_pair as create_new_rsa_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_new_secp256k1_key_pair
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.peer.id import ID

from fabstird import base58
from fabstird.identity import Identity, IdentityError, load_or_make

SEED = bytes(range(32))
# The test vectors of the libp2p specification, peer-ids.md: an Ed25519 key, private and public
SPECIFIED = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPECIFIED_PUBLIC = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")


def written(seed: bytes) -> bytes:
    """The file as kubo and js-libp2p write it. py-libp2p 0.8.1 writes the seed alone, which nobody else reads."""
    public = create_new_key_pair(seed).public_key.to_bytes()
    return bytes.fromhex("08011240") + seed + public


@given(st.binary(min_size=32, max_size=32))
def test_the_peer_id_is_libp2ps(seed: bytes) -> None:
    assert Identity.from_seed(seed).peer_id == ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()


def test_the_file_that_is_made_is_every_libp2ps(tmp_path: Path) -> None:
    made = load_or_make(tmp_path / "identity.key")
    assert (tmp_path / "identity.key").read_bytes() == written(made.seed)


def test_the_specifications_own_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_bytes(SPECIFIED)
    found = load_or_make(tmp_path / "identity.key")
    assert written(found.seed) == SPECIFIED
    assert found.peer_id == ID.from_pubkey(deserialize_public_key(SPECIFIED_PUBLIC)).to_base58()


def test_an_identity_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = load_or_make(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make(path) == first
    assert os.listdir(tmp_path) == ["identity.key"]
    assert load_or_make(tmp_path / "another.key") != first


def test_the_seed_is_in_no_repr() -> None:
    assert repr(Identity.from_seed(SEED)) == f"Identity({Identity.from_seed(SEED).peer_id})"


def halves_swapped(content: bytes) -> bytes:
    return content[:4] + content[36:] + content[4:36]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged: 0 bytes that are no libp2p Ed25519 private key"),
        (b"-----BEGIN PRIVATE KEY-----\n", "damaged: 28 bytes"),
        (written(SEED)[:-1], "damaged: 67 bytes"),
        (written(SEED) + b"\n", "damaged: 69 bytes"),
        (bytes(68), "damaged: 68 bytes"),
        (halves_swapped(written(SEED)), "damaged: its two halves do not belong together"),
        (written(SEED)[:36] + bytes(32), "damaged: its two halves do not belong together"),
        (bytes(create_new_rsa_key_pair(bits=1024).private_key.serialize()), "holds a key of type RSA; only Ed25519"),
        (bytes(create_new_secp256k1_key_pair().private_key.serialize()), "holds a key of type Secp256k1; only Ed25519"),
    ],
    ids=["empty", "PEM", "truncated", "longer", "zeros", "swapped halves", "other public key", "RSA", "Secp256k1"],
)
def test_a_file_that_is_no_identity_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=words) as raised:
        load_or_make(path)
    assert str(path) in str(raised.value)
    assert "restore it from a backup, or move it away" in str(raised.value)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["identity.key"]


@given(st.integers(0, 67), st.integers(1, 255))
def test_one_wrong_byte_is_always_noticed(tmp_path_factory: pytest.TempPathFactory, at: int, flip: int) -> None:
    content = bytearray(written(SEED))
    content[at] ^= flip
    path = tmp_path_factory.mktemp("identity") / "identity.key"
    path.write_bytes(content)
    with pytest.raises(IdentityError):
        load_or_make(path)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read_or_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(IdentityError, match="directory: Is a directory"):
        load_or_make(tmp_path / "directory")
    with pytest.raises(IdentityError, match="cannot be written: No such file or directory"):
        load_or_make(tmp_path / "missing" / "identity.key")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0", "1"),
        (b"\0\0\1", "112"),
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (b"\x00\x00\x28\x7f\xb4\xcd", "11233QC4"),
    ],
)
def test_base58_vectors(data: bytes, text: str) -> None:
    """draft-msporny-base58-03, section 5, and leading zeros."""
    assert base58.encode(data) == text
    assert base58.decode(text) == data


@given(st.binary(max_size=100))
def test_base58_is_the_librarys(data: bytes) -> None:
    assert base58.encode(data) == b58encode(data).decode()
    assert base58.decode(base58.encode(data)) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", " 1", "1\n", "é"])
def test_other_characters_are_not_base58(text: str) -> None:
    with pytest.raises(ValueError, match="base58"):
        base58.decode(text)
