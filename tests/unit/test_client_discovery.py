"""How the daemon is found, and which token goes with it."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path

import pytest

from fabstir_client._core.discovery import Candidate, Endpoint, Target, describe, unreachable
from fabstir_client.api.errors import InvalidConfig

GONE = 2**22 + 1  # a pid that Linux never gives out


def api_file(directory: Path, **content: object) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "api.json").write_text(json.dumps({"epoch": "e", "version": "1", **content}))


def tried(target: Target, **environ: str) -> list[Candidate]:
    return list(target.candidates(environ))


def endpoints(target: Target, **environ: str) -> list[str]:
    return [str(c.endpoint) for c in tried(target, **environ) if c.endpoint is not None]


def test_the_usual_places_in_order(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": "/nowhere"}
    assert endpoints(Target(), **environ) == [
        f"ipc:{tmp_path}/run/fabstird/api.sock",
        f"ipc:{tmp_path}/state/fabstird/api.sock",
        "ipc:/run/fabstird/api.sock",
    ]
    api_file(tmp_path / "state" / "fabstird", pid=1, ipc="/elsewhere/api.sock", http=None)
    assert endpoints(Target(), **environ)[0] == "ipc:/elsewhere/api.sock"
    assert len(tried(Target(), **environ)) == 4


def test_without_xdg_the_home_directory_is_asked(tmp_path: Path) -> None:
    api_file(tmp_path / ".local" / "state" / "fabstird", pid=1, ipc="/a.sock")
    assert endpoints(Target(), HOME=str(tmp_path), XDG_STATE_HOME="relative") == [
        "ipc:/a.sock",
        f"ipc:{tmp_path}/.local/state/fabstird/api.sock",
        "ipc:/run/fabstird/api.sock",
    ]


def test_a_data_directory_stands_for_itself(tmp_path: Path) -> None:
    environ = {"FABSTIR_API": "ipc:/other", "XDG_RUNTIME_DIR": "/run/user/0"}
    assert endpoints(Target(data_dir=tmp_path), **environ) == [f"ipc:{tmp_path}/api.sock"]
    api_file(tmp_path, pid=1, ipc=f"{tmp_path}/api.sock")
    assert endpoints(Target(data_dir=tmp_path), **environ) == [f"ipc:{tmp_path}/api.sock"]


def test_the_variable_comes_before_the_usual_places_and_the_argument_before_it(tmp_path: Path) -> None:
    api_file(tmp_path / "fabstird", pid=1, ipc="/usual.sock")
    environ = {"FABSTIR_API": "ipc:/said.sock", "XDG_STATE_HOME": str(tmp_path)}
    assert endpoints(Target(), **environ) == ["ipc:/said.sock"]
    assert endpoints(Target(api="ipc:/argument.sock"), **environ) == ["ipc:/argument.sock"]
    assert endpoints(Target(), **{**environ, "FABSTIR_API": ""})[0] == "ipc:/usual.sock"


@pytest.mark.parametrize(
    ("api", "uri"),
    [
        ("http://127.0.0.1:4780", "ws://127.0.0.1:4780/ws"),
        ("http://[::1]:4780/", "ws://[::1]:4780/ws"),
        ("http://localhost", "ws://localhost:80/ws"),
        ("http://proxy.example:81/fabstir/", "ws://proxy.example:81/fabstir/ws"),
    ],
)
def test_http_means_websocket(api: str, uri: str) -> None:
    (candidate,) = tried(Target(api=api), HOME="/nowhere")
    assert candidate.endpoint is not None
    assert candidate.endpoint.websocket_uri == uri


@pytest.mark.parametrize(
    "api",
    ["ipc:", "ipc:/a\0b", "/run/x.sock", "https://h:1", "http://", "http://h:port", "http://h:99999", "http://u@h:1",
     "http://h:1?x=1", "http://[::1", "nonsense", "http://a..b:1"],
)  # fmt: skip
def test_an_address_that_is_none_is_said_to_be_none(api: str) -> None:
    with pytest.raises(InvalidConfig, match="no address of a daemon; it must be ipc:/path or http://host:port"):
        tried(Target(api=api), HOME="/nowhere")


def test_http_of_the_data_directory_where_ipc_is_switched_off(tmp_path: Path) -> None:
    api_file(tmp_path, pid=os.getpid(), ipc=None, http="127.0.0.1:4780")
    (tmp_path / "api.token").write_text("secret-of-the-directory\n")
    first, _ = tried(Target(data_dir=tmp_path))
    assert first.endpoint == Endpoint(
        host="127.0.0.1",
        port=4780,
        prefix="",
        token="secret-of-the-directory",
        token_origin=f"from {tmp_path}/api.token",
    )


def test_http_on_a_unix_socket(tmp_path: Path) -> None:
    api_file(tmp_path, pid=os.getpid(), ipc="", http="unix:/web.sock")
    first, _ = tried(Target(data_dir=tmp_path))
    assert first.endpoint is not None
    assert (first.endpoint.path, first.endpoint.websocket_uri) == ("/web.sock", "ws://localhost/ws")


def test_the_token_is_not_shown_to_whoever_took_a_dead_daemons_port(tmp_path: Path) -> None:
    api_file(tmp_path, pid=GONE, ipc=None, http="127.0.0.1:4780")
    first, _ = tried(Target(data_dir=tmp_path))
    assert (first.endpoint, first.reason) == (None, f"left by a daemon that is gone (pid {GONE})")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not readable as JSON"), ("[]", "not readable as JSON"), ("{}", "names no endpoint")],
)
def test_a_broken_file_is_told_and_the_search_goes_on(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "api.json").write_text(content)
    first, second = tried(Target(data_dir=tmp_path))
    assert reason in first.reason
    assert second.endpoint is not None


def test_where_the_token_comes_from(tmp_path: Path) -> None:
    (tmp_path / "api.token").write_text("of-the-directory\n")
    (tmp_path / "other").write_text("  of-the-file\n")
    environ = {"FABSTIR_TOKEN": "of-the-environment", "FABSTIR_TOKEN_FILE": str(tmp_path / "other")}

    def token(target: Target, **environ: str) -> str | None:
        (candidate,) = tried(target, **environ)
        assert candidate.endpoint is not None
        return candidate.endpoint.token

    api = "http://h:1"
    assert token(Target(api, tmp_path, "of-the-argument"), **environ) == "of-the-argument"
    assert token(Target(api, tmp_path), **environ) == "of-the-environment"
    assert token(Target(api, tmp_path), FABSTIR_TOKEN_FILE=environ["FABSTIR_TOKEN_FILE"]) == "of-the-file"
    assert token(Target(api, tmp_path)) == "of-the-directory"
    assert token(Target(api), HOME="/nowhere") is None


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=rf"FABSTIR_TOKEN_FILE: {tmp_path}/none"):
        tried(Target("http://h:1"), FABSTIR_TOKEN_FILE=f"{tmp_path}/none")


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel"])
def test_a_token_that_would_break_the_header_is_refused_unseen(token: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        tried(Target("http://h:1", token=token))
    assert token not in str(caught.value)


def test_no_representation_shows_the_token() -> None:
    endpoint = Endpoint(host="h", port=1, prefix="", token="secret")
    assert "secret" not in f"{endpoint} {endpoint!r}"


def test_the_error_says_what_was_tried_and_what_to_run() -> None:
    tried = [("/a.sock", describe(FileNotFoundError(2, "x"))), ("/b", describe(ConnectionRefusedError()))]
    error = unreachable(tried, Target(data_dir="/srv/my node"))
    assert str(error) == (
        "no daemon was reached (tried /a.sock: not there; /b: refused, nobody listens there). "
        "Start one with: fabstird run --data-dir '/srv/my node'"
    )
    assert (error.code, error.retryable) == ("DAEMON_UNREACHABLE", True)


@pytest.mark.parametrize(
    ("target", "environ", "command"),
    [
        (Target(), {}, "fabstird run"),
        (Target(data_dir="/tmp/bob"), {"FABSTIR_API": "ipc:/run/a"}, "fabstird run --data-dir /tmp/bob"),
        (Target("ipc:/run/a b"), {}, "fabstird run --set 'api.ipc=/run/a b'"),
        (Target(), {"FABSTIR_API": "ipc:/run/a"}, "fabstird run --set api.ipc=/run/a"),
        (Target("http://localhost:4780"), {}, "fabstird run --set api.http=localhost:4780"),
        (Target("http://[::1]:4780/"), {}, "fabstird run --set 'api.http=[::1]:4780'"),
        (Target("http://localhost:4780/behind/a/proxy"), {}, None),
        (Target("http://node.example.org:4780"), {}, None),
    ],
)
def test_the_command_starts_a_daemon_where_the_caller_looks(
    target: Target, environ: dict[str, str], command: str | None
) -> None:
    assert target.start(environ) == command


def test_who_may_not_is_told_who_may(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    denied = PermissionError(13, "Permission denied")
    assert describe(denied) == "permission denied"
    assert describe(denied, "/nowhere/at/all") == "permission denied"
    tmp_path.chmod(0o750)
    group, name = grp.getgrgid(tmp_path.stat().st_gid).gr_name, pwd.getpwuid(os.geteuid()).pw_name
    may = f"it is for members of the group {group}: as root, usermod -aG {group} {name}; then log in again"
    assert describe(denied, str(path)) == f"permission denied, {may}"
    path.touch(0o600)
    alone = describe(denied, str(path))
    assert alone == f"permission denied, it is for the user {name} alone"
    assert str(unreachable([("/a.sock", alone)], Target())) == f"no daemon was reached (tried /a.sock: {alone})"
