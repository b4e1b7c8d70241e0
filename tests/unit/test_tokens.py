"""Tokens: what is stored, what a token grants, and files that are damaged or cannot be written."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio

from fabstir_client.api.errors import InvalidParams, InvalidState, LimitExceeded
from fabstird.rpc import tokens as module
from fabstird.rpc.tokens import API_TOKEN, PREFIX, Tokens

OWN = "the daemon's own token"
DAY = 86_400_000


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[..., Tokens]:
    def made(limit: int = 8) -> Tokens:
        tokens = Tokens(tmp_path / "tokens.json", OWN, limit, clock=clock)
        tokens.load()
        return tokens

    return made


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_whole", write)


def set_aside(directory: Path) -> list[Path]:
    return list(directory.glob("tokens.json.damaged-*"))


async def test_the_daemons_own_token_grants_everything(make: Any) -> None:
    grant = make().find(OWN.encode())
    assert (grant.access, grant.methods, grant.token, grant.ended()) == ("admin", None, API_TOKEN, None)


@pytest.mark.parametrize("wrong", [b"", b"x", OWN[:-1].encode(), OWN.encode() + b"x", b"\xff" * 100])
async def test_what_is_no_token_grants_nothing(make: Any, wrong: bytes) -> None:
    tokens = make()
    await tokens.create("ci", "read", None, None)
    assert tokens.find(wrong) is None


async def test_a_token_grants_what_it_was_made_for(make: Any) -> None:
    tokens = make()
    made = await tokens.create("ci", "write", ["connect", "peers"], DAY)
    assert made.token.startswith(PREFIX)
    assert len(made.token) > len(PREFIX) + 40  # 256 bits in base64
    grant = tokens.find(made.token.encode())
    assert (grant.access, grant.token, grant.methods) == ("write", "ci", frozenset({"connect", "peers"}))
    assert (made.created, made.expires) == (1_800_000_000_000, 1_800_000_000_000 + DAY)
    other = await tokens.create("other", "read", None, None)
    assert other.token != made.token
    assert tokens.find(other.token.encode()).token == "other"


async def test_the_file_holds_hashes_and_is_for_its_owner_alone(make: Any, tmp_path: Path) -> None:
    made = await make().create("ci", "read", None, None)
    file = tmp_path / "tokens.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made.token not in file.read_text()
    assert made.token.removeprefix(PREFIX) not in file.read_text()


async def test_tokens_outlive_the_daemon(make: Any) -> None:
    made = await make().create("ci", "write", ["connect"], DAY)
    again = make()
    grant = again.find(made.token.encode())
    assert (grant.access, grant.methods, grant.expires) == ("write", frozenset({"connect"}), made.expires)
    (told,) = again.all()
    assert told.to_dict() == {
        "name": "ci",
        "access": "write",
        "methods": ["connect"],
        "created": made.created,
        "expires": made.expires,
        "lastUsed": 1_800_000_000_000,
    }


async def test_a_token_that_expires(make: Any, clock: Clock) -> None:
    tokens = make()
    made = await tokens.create("ci", "read", None, 1000)
    clock.now += 0.999
    assert tokens.find(made.token.encode()).ended() is None
    clock.now += 0.001
    assert "expired" in tokens.find(made.token.encode()).ended()
    assert [one.expired for one in tokens.all()] == [True]
    assert "expired" in make().find(made.token.encode()).ended()


async def test_a_token_that_is_revoked(make: Any) -> None:
    tokens = make()
    made = await tokens.create("ci", "read", None, None)
    held = tokens.find(made.token.encode())
    assert await tokens.revoke("ci") is True
    assert held.ended() == 'the token "ci" was revoked'
    assert tokens.find(made.token.encode()) is None
    assert tokens.all() == []
    assert make().all() == []
    assert await tokens.revoke("ci") is False
    await tokens.create("ci", "read", None, None)  # the name is free again, the old token is not good


async def test_one_name_is_one_token(make: Any) -> None:
    tokens = make()
    await tokens.create("ci", "read", None, None)
    with pytest.raises(InvalidState, match='there is a token "ci" already'):
        await tokens.create("ci", "read", None, None)
    with pytest.raises(InvalidState, match="already"):
        await tokens.create(API_TOKEN, "read", None, None)


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "a\n", "../x", 'a"b'])
async def test_a_name_is_short_and_plain(make: Any, name: str) -> None:
    with pytest.raises(InvalidParams, match="name: must be 1 to 64"):
        await make().create(name, "read", None, None)


async def test_the_number_of_tokens_is_bounded_and_expired_ones_make_room(make: Any, clock: Clock) -> None:
    tokens = make(3)
    await tokens.create("short", "read", None, 1000)
    await tokens.create("a", "read", None, None)
    await tokens.create("b", "read", None, None)
    with pytest.raises(LimitExceeded) as raised:
        await tokens.create("c", "read", None, None)
    assert raised.value.data == {"limit": 3, "current": 3, "configKey": "api.max_tokens"}
    clock.now += 1
    await tokens.create("c", "read", None, None)
    assert [one.name for one in tokens.all()] == ["a", "b", "c"]


async def test_two_at_a_time_are_both_kept(make: Any) -> None:
    tokens = make()
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c", "d"):
            nursery.start_soon(tokens.create, name, "read", None, None)
    assert sorted(one.name for one in make().all()) == ["a", "b", "c", "d"]


async def test_a_token_that_cannot_be_stored_is_none(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make()
    full_disk(monkeypatch)
    with pytest.raises(InvalidState, match=r"no token was made: .*No space left"):
        await tokens.create("ci", "read", None, None)
    assert tokens.all() == []


async def test_a_token_is_revoked_although_the_disk_is_full(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make()
    made = await tokens.create("ci", "read", None, None)
    full_disk(monkeypatch)
    with pytest.raises(InvalidState, match="good again after a restart") as raised:
        await tokens.revoke("ci")
    assert raised.value.data == {"saved": False}
    assert tokens.find(made.token.encode()) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"version": 2, "tokens": []}',
        b'{"version": 1, "tokens": [{"name": "a", "hash": "zz", "access": "read", "created": 1}]}',
        b'{"version": 1, "tokens": [{"name": "a", "hash": "00", "access": "read", "created": 1}]}',
        b'{"version": 1, "tokens": [{"name": "a", "hash": "' + b"0" * 64 + b'", "access": "root", "created": 1}]}',
    ],
)
async def test_a_damaged_file_is_set_aside(make: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens.json").write_bytes(content)
    with structlog.testing.capture_logs() as lines:
        tokens = make()
    assert tokens.all() == []
    (aside,) = set_aside(tmp_path)
    assert aside.read_bytes() == content
    assert [(line["log_level"], line["set_aside"]) for line in lines] == [("warning", str(aside))]
    await tokens.create("ci", "read", None, None)
    assert json.loads((tmp_path / "tokens.json").read_text())["tokens"][0]["name"] == "ci"
