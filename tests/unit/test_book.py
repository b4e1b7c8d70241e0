"""Known peers across restarts: bounded, written whole, and never fatal when damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fabstird.config import LARGEST
from fabstird.p2p.peers.bans import MAX_BANS
from fabstird.p2p.peers.book import MAX_ADDRESSES, MAX_PEERS, Book
from fabstird.stored import MAX_FILE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def book(path: Path) -> Book:
    made = Book(path, clock=Clock())
    made.load()
    return made


def stored(path: Path) -> list[str]:
    return list(json.loads(path.read_bytes())["peers"])


def test_a_stranger_has_no_address(tmp_path: Path) -> None:
    assert book(tmp_path / "peers.json").addresses("A") == []


def test_peers_outlive_the_process(tmp_path: Path) -> None:
    first = book(tmp_path / "peers.json")
    first.seen("A", ["/a1", "/a2"])
    first.seen("B", ["/b"])
    first.save()
    second = book(tmp_path / "peers.json")
    assert (len(second), second.addresses("A"), second.addresses("B")) == (2, ["/a1", "/a2"], ["/b"])
    assert (tmp_path / "peers.json").stat().st_mode & 0o777 == 0o600


def test_the_newest_address_comes_first_and_each_once(tmp_path: Path) -> None:
    known = book(tmp_path / "peers.json")
    known.seen("A", ["/1", "/2", "/1"])
    known.seen("A", ["/3", "/2"])
    assert known.addresses("A") == ["/3", "/2", "/1"]
    known.seen("A", [])
    assert known.addresses("A") == ["/3", "/2", "/1"]


def test_addresses_of_a_peer_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    known = book(tmp_path / "peers.json")
    for number in range(MAX_ADDRESSES + 3):
        known.seen("A", [f"/{number}"])
    assert known.addresses("A") == [f"/{number}" for number in range(MAX_ADDRESSES + 2, 2, -1)]
    known.seen("A", [f"/x{number}" for number in range(100)])
    assert known.addresses("A") == [f"/x{number}" for number in range(MAX_ADDRESSES)]


def test_what_is_returned_is_the_callers(tmp_path: Path) -> None:
    known = book(tmp_path / "peers.json")
    known.seen("A", ["/1"])
    known.addresses("A").append("/mine")
    assert known.addresses("A") == ["/1"]


def test_peers_are_bounded_and_the_one_seen_longest_ago_goes(tmp_path: Path) -> None:
    known = book(tmp_path / "peers.json")
    for number in range(MAX_PEERS):
        known.seen(f"{number}", ["/x"])
    known.seen("0", ["/x"])
    known.seen("new", ["/x"])
    assert len(known) == MAX_PEERS
    assert known.addresses("0") == known.addresses("new") == ["/x"]
    assert known.addresses("1") == []


def test_age_outlives_the_process(tmp_path: Path) -> None:
    """What is stored in another order is still ordered by when it was seen."""
    path = tmp_path / "peers.json"
    peers = {str(number): {"addresses": ["/x"], "lastSeen": MAX_PEERS - number} for number in range(MAX_PEERS + 5)}
    path.write_text(json.dumps({"version": 1, "peers": peers}))
    known = book(path)
    assert len(known) == MAX_PEERS
    assert known.addresses(str(MAX_PEERS + 4)) == []  # the five that were seen longest ago
    known.seen("new", ["/x"])
    assert known.addresses(str(MAX_PEERS - 1)) == []  # the next
    assert known.addresses("0") == ["/x"]


def test_only_a_change_is_written(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    known = book(path)
    known.save()
    assert not path.exists()
    known.seen("A", ["/1"])
    assert known.changed
    known.save()
    assert stored(path) == ["A"]
    path.unlink()
    known.save()
    assert not path.exists()
    assert not known.changed


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    path = tmp_path / "not yet" / "peers.json"
    known = book(path)
    known.seen("A", ["/1"])
    with pytest.raises(FileNotFoundError):
        known.save()
    path.parent.mkdir()
    known.save()
    assert stored(path) == ["A"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"version": 2, "peers": {}}',
        b'{"version": 1}',
        b'{"version": 1, "peers": {"A": {"addresses": "/x", "lastSeen": 1}}}',
        b'{"version": 1, "peers": {"A": {"addresses": ["/x"]}}}',
        b'{"version": 1, "peers": {"A": {"addresses": ["\xff"], "lastSeen": 1}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_set_aside_and_never_fatal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    known = book(path)
    assert len(known) == 0
    (aside,) = os.listdir(tmp_path)
    assert aside == "peers.json.damaged-1001000"
    assert (tmp_path / aside).read_bytes() == content
    known.seen("A", ["/1"])
    known.save()
    assert stored(path) == ["A"]
    assert (tmp_path / aside).read_bytes() == content


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "peers.json").mkdir()
    assert len(book(tmp_path / "peers.json")) == 0
    assert os.listdir(tmp_path) == ["peers.json"]


def test_a_full_book_is_read_again(tmp_path: Path) -> None:
    """However long the reasons are that the API takes: a larger file would be set aside at the next start."""
    book = Book(tmp_path / "peers.json")
    for number in range(MAX_BANS):
        book.bans.add(f"10.0.{number // 256}.{number % 256}/32", LARGEST, "\x01" * 1000)
    content = book.encode()
    assert len(content) < MAX_FILE / 2
    (tmp_path / "peers.json").write_bytes(content)
    again = Book(tmp_path / "peers.json")
    again.load()
    assert again.bans.all() == book.bans.all()
    assert len(again.bans) == MAX_BANS
