"""Files in the data directory, whatever lies there: none ends the daemon, holds it up or fills its memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fabstird import stored
from fabstird.datadir import DataDirError, read_regular, read_token
from fabstird.identity import IdentityError, load_or_make
from fabstird.log.logger import get_logger
from fabstird.p2p.dht.republish_store import Kept
from fabstird.p2p.peers.book import Book
from fabstird.p2p.transport.secure import CertificateError, ServerCertificate
from fabstird.rpc.tokens import Tokens


def _read(path: Path, most: int = 1000) -> stored.Stored | None:
    return stored.load(
        path,
        lambda content: stored.decode(content, stored.Stored),
        get_logger("test"),
        unreadable="unreadable",
        damaged="damaged",
        clock=lambda: 1.0,
        most=most,
    )


def _deep(path: Path) -> None:
    path.write_bytes(b'{"version": 1, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # nothing is on the disk


WHATEVER: list[Callable[[Path], None]] = [_deep, os.mkfifo, _endless, _huge, Path.mkdir]
READERS: dict[str, Callable[[Path], object]] = {
    "peers.json": lambda path: Book(path).load(),
    "dht.json": lambda path: Kept(path).load(),
    "tokens.json": lambda path: Tokens(path, "of the owner", 8).load(),
}


@pytest.mark.parametrize("make", WHATEVER)
@pytest.mark.parametrize("name", [name for name in READERS if name != "dht.json"])
def test_whatever_lies_there_is_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    READERS[name](tmp_path / name)


@pytest.mark.parametrize("make", [_deep, os.mkfifo, _endless])
def test_records_of_the_dht_neither(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "dht.json")
    READERS["dht.json"](tmp_path / "dht.json")


def test_a_file_that_is_too_large_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(b'{"version": 1}'.ljust(1000))
    assert _read(path) == stored.Stored(1)
    path.write_bytes(b'{"version": 1}'.ljust(1001))
    assert _read(path) is None
    assert os.listdir(tmp_path) == ["some.json.damaged-1000"]


def _to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_to_itself, os.mkfifo])
def test_what_cannot_be_read_is_not_overwritten(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """The next save replaced it."""
    path = tmp_path / "peers.json"
    make(path)
    kind = stat.S_IFMT(path.lstat().st_mode)
    book = Book(path, clock=lambda: 1.0)
    book.load()
    book.keep("/ip4/10.0.0.1/tcp/1")
    book.save()
    assert stat.S_IFMT((tmp_path / "peers.json.unreadable-1000").lstat().st_mode) == kind
    assert path.is_file()


def test_depth_is_damage() -> None:
    with pytest.raises(msgspec.MsgspecError, match="nested too deeply"):
        stored.decode(b'{"version": 1, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", stored.Stored)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe", 1)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 1)
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 2) == b"ab"


@pytest.mark.parametrize("make", [os.mkfifo, _endless])
def test_keys_tokens_and_certificates_are_files_or_errors(tmp_path: Path, make: Callable[[Path], None]) -> None:
    for name in ("identity.key", "api.token", "certificate.pem"):
        make(tmp_path / name)
    with pytest.raises(IdentityError, match="not a regular file"):
        load_or_make(tmp_path / "identity.key")
    with pytest.raises(DataDirError, match="not a regular file"):
        read_token(tmp_path)
    with pytest.raises(CertificateError, match="not a regular file"):
        ServerCertificate(tmp_path / "certificate.pem", tmp_path / "certificate.pem").load()
