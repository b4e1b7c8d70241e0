"""The data directory: where it is, who holds it, and files that are written whole or not at all."""

from __future__ import annotations

import os
import pwd
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fabstird.datadir import (
    DataDirError,
    DataDirInUse,
    locate,
    locate_ipc,
    locked,
    others_may_read,
    prepare,
    read_token,
    write_whole,
)

HOME = pwd.getpwuid(os.getuid()).pw_dir  # the account's: the environments below have no HOME

# --------------------------------------------------------------------------------------------------------------------
# Where things are


@pytest.mark.parametrize(
    ("option", "environ", "found"),
    [
        ("/data", {"STATE_DIRECTORY": "/s", "XDG_STATE_HOME": "/x"}, "/data"),
        (None, {"STATE_DIRECTORY": "/s", "XDG_STATE_HOME": "/x"}, "/s"),
        (None, {"STATE_DIRECTORY": "/s:/s2"}, "/s"),
        (None, {"STATE_DIRECTORY": "", "XDG_STATE_HOME": "/x"}, "/x/fabstird"),
        (None, {"XDG_STATE_HOME": ""}, f"{HOME}/.local/state/fabstird"),
        (None, {"XDG_STATE_HOME": "not/absolute"}, f"{HOME}/.local/state/fabstird"),  # XDG says to ignore it
        (None, {}, f"{HOME}/.local/state/fabstird"),
    ],
)
def test_where_the_data_directory_is(option: str | None, environ: dict[str, str], found: str) -> None:
    assert str(locate(option, environ)) == found


def test_a_relative_data_dir_is_where_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("data", {}) == tmp_path / "data"


@pytest.mark.parametrize(
    ("setting", "given", "environ", "found"),
    [
        ("", True, {"RUNTIME_DIRECTORY": "/r"}, None),
        ("/my.sock", True, {"RUNTIME_DIRECTORY": "/r", "XDG_RUNTIME_DIR": "/x"}, "/my.sock"),
        ("auto", True, {"RUNTIME_DIRECTORY": "/r", "XDG_RUNTIME_DIR": "/x"}, "/r/api.sock"),
        ("auto", False, {"RUNTIME_DIRECTORY": "/r:/r2"}, "/r/api.sock"),
        ("auto", True, {"XDG_RUNTIME_DIR": "/x"}, "/data/api.sock"),
        ("auto", False, {"XDG_RUNTIME_DIR": "/x"}, "/x/fabstird/api.sock"),
        ("auto", False, {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": ""}, "/data/api.sock"),
        ("auto", False, {"XDG_RUNTIME_DIR": "not/absolute"}, "/data/api.sock"),
        ("auto", False, {}, "/data/api.sock"),
    ],
)
def test_where_the_ipc_socket_is(setting: str, given: bool, environ: dict[str, str], found: str | None) -> None:
    path = locate_ipc(setting, Path("/data"), data_dir_given=given, environ=environ)
    assert (str(path) if path else None) == found


# --------------------------------------------------------------------------------------------------------------------
# The directory and its lock


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(DataDirError, match=f"{path}: {why}"):
            prepare(path)


def test_the_lock_cannot_be_held_twice_and_names_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(
            DataDirInUse, match=rf"{tmp_path} is in use by the daemon with pid {os.getpid()};"
        ) as raised:
            locked(tmp_path).__enter__()
        assert raised.value.pid == os.getpid()
    with locked(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fabstird.datadir import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirInUse) as raised:
            locked(tmp_path).__enter__()
        assert raised.value.pid == holder.pid
        holder.kill()
        holder.wait(60)
        with locked(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_file_without_a_pid_is_still_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "lock").write_bytes(b"\xff")
        with pytest.raises(DataDirInUse, match="in use by another daemon"):
            locked(tmp_path).__enter__()


def test_a_lock_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"missing/lock: No such file or directory"):
        locked(tmp_path / "missing").__enter__()
    (tmp_path / "lock").mkdir()
    with pytest.raises(DataDirError, match=r"lock: Is a directory"):
        locked(tmp_path).__enter__()


# --------------------------------------------------------------------------------------------------------------------
# Files


def test_a_file_is_written_with_its_rights(tmp_path: Path) -> None:
    write_whole(tmp_path / "private", b"one")
    write_whole(tmp_path / "public", b"two", 0o644)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "private").read_bytes() == b"one"
    assert sorted(os.listdir(tmp_path)) == ["private", "public"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    write_whole(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # what exceeds it fails as on a full disk, half-written
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["peers.json"]


def test_a_file_that_cannot_be_replaced_leaves_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "taken", b"new")
    assert os.listdir(tmp_path) == ["taken"]


def test_readers_and_a_kill_find_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([number]) * 100_000 for number in (1, 2)}
    code = (
        "import sys, itertools; from pathlib import Path; from fabstird.datadir import write_whole\n"
        "path = Path(sys.argv[1])\n"
        "for n in itertools.count(): write_whole(path, bytes([n % 2 + 1]) * 100_000)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        seen: set[bytes] = set()
        deadline = time.monotonic() + 60
        while seen < contents:
            assert writer.poll() is None
            assert time.monotonic() < deadline
            if path.exists():
                seen |= {path.read_bytes() for _ in range(50)}
        writer.kill()
        writer.wait(60)
    assert seen == contents
    assert path.read_bytes() in contents


# --------------------------------------------------------------------------------------------------------------------
# The token


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    token = read_token(tmp_path)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert (tmp_path / "api.token").read_text() == f"{token}\n"
    assert (tmp_path / "api.token").stat().st_mode & 0o777 == 0o600
    assert read_token(tmp_path) == token
    (tmp_path / "other").mkdir()
    assert read_token(tmp_path / "other") != token


@pytest.mark.parametrize("content", [b"my-own-16-chars-", b"  my-own-16-chars-  \n", b"my-own-16-chars-\r\n"])
def test_a_token_of_ones_own_is_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "api.token").write_bytes(content)
    assert read_token(tmp_path) == "my-own-16-chars-"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"fifteen-chars--", b"sixteen chars --", b"sixteen\nchars---", b"\xff" * 32, b"x" * 20 + b"\0"],
)
def test_a_file_without_a_usable_token_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "api.token").write_bytes(content)
    with pytest.raises(DataDirError, match=r"api\.token holds no usable token; delete it") as raised:
        read_token(tmp_path)
    assert (tmp_path / "api.token").read_bytes() == content
    assert content.decode("latin-1").strip() == "" or content.decode("latin-1").strip() not in str(raised.value)


def test_a_token_that_cannot_be_read_or_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"missing/api.token: No such file or directory"):
        read_token(tmp_path / "missing")
    (tmp_path / "api.token").mkdir()
    with pytest.raises(DataDirError, match=r"api\.token: Is a directory"):
        read_token(tmp_path)


@pytest.mark.parametrize(
    ("mode", "others"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o610, True)]
)
def test_rights_of_others_are_seen(tmp_path: Path, mode: int, others: bool) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(mode)
    assert others_may_read(tmp_path / "file") is others
