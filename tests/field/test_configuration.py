"""The configuration as people and editors write it, and an environment as machines leave it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabstir_client._core.cursor import SILENCE
from fabstird import doubts
from fabstird.config import ConfigError, checks, home, load
from fabstird.p2p.dht.messages import MAX_MESSAGE
from tests.field.commands import environment, run, words

PEER = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def check(*arguments: str, status: int = 0, **environ: str | None) -> tuple[dict[str, dict[str, object]], list[str]]:
    """What `fabstird check-config` shows, and its lines on standard error."""
    done = run("fabstird", "check-config", *arguments, env=environment(**environ))
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr.splitlines()


# --------------------------------------------------------------------------------------------------------------------
# Where it is looked for


def test_the_first_file_that_exists_is_read(tmp_path: Path) -> None:
    def write(path: Path, retries: int) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[node]\nmax_retries = {retries}\n")
        return str(path)

    def retries(*arguments: str, **environ: str | None) -> object:
        return check(*arguments, HOME=str(tmp_path), **environ)[0]["node"]["max_retries"]

    assert retries() == 3
    write(tmp_path / ".config" / "fabstird" / "config.toml", 11)
    assert retries() == 11
    assert retries(XDG_CONFIG_HOME="relative") == 11
    write(tmp_path / "xdg" / "fabstird" / "config.toml", 12)
    assert retries(XDG_CONFIG_HOME=str(tmp_path / "xdg")) == 12
    assert retries(XDG_CONFIG_HOME=str(tmp_path / "empty")) == 3
    named = write(tmp_path / "named.toml", 13)
    assert retries(FABSTIRD_CONFIG=named) == 13
    assert retries(write(tmp_path / "given.toml", 14), FABSTIRD_CONFIG=named) == 14


def test_without_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "relative"):
        check(HOME=value)  # the user database knows one
    monkeypatch.setattr(os, "geteuid", lambda: 3_000_000_000)
    assert home({}) is None
    assert load(None, {}).node.max_retries == 3
    monkeypatch.undo()
    if os.geteuid() == 0:
        done = subprocess.run(
            [sys.executable, "-c", NOBODY], env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr
            == "fabstird: no data directory: this user has no home directory; set HOME, or give --data-dir\n"
        )


# Of a user that the user database does not know; it may not be allowed to read this Python, so all is imported before
NOBODY = """
import os, pwd
import fabstird.cli, fabstird.datadir, fabstird.identity, fabstird.systemd
fabstird.cli.find_spec = lambda name: name
os.setuid(54321)
del os.environ["HOME"]
fabstird.cli.main(["id"])
"""


# --------------------------------------------------------------------------------------------------------------------
# Bytes that are no configuration


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[node]\nmax_retries = 1\n".encode("utf-16"), "is not UTF-8 text (byte 0); it is UTF-16: save it as UTF-8"),
        (b"[node]\nmax_retries = \xff\n", "is not UTF-8 text (byte 21)"),
        (b"x = " + b"[" * 50_000, "is not TOML: nested too deeply"),
        (b"x = " + b"9" * 5000, "is not TOML"),
        (b"[api]\nipc = '/tmp/a\x00b'\n", "is not TOML"),
        (b'[api]\nipc = "/tmp/a\\u0000b"\n', "api.ipc: must be an absolute path"),
        (b'[api]\nhttp = "unix:/tmp/a\\u0000b"\n', 'api.http: must be "host:port"'),
        (b'[api]\nhttp = "%s:80"\n' % (b"a" * 64), 'api.http: must be "host:port"'),
        (b'[api]\nhttp = "a..b:80"\n', 'api.http: must be "host:port"'),
        (b'[api]\nhttp = " localhost:80"\n', 'api.http: must be "host:port"'),
        (
            b'[node]\nbootstrap_nodes = ["/ip4/1.2.3.4/tcp/1\\u0000/p2p/x"]\n',
            "node.bootstrap_nodes: invalid bootstrap node",
        ),
        (b"#" * (1024 * 1024 + 1), "is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    shown, lines = check(str(path), status=2)
    assert shown == {}
    assert len(lines) == 1
    assert said in lines[0]


def test_a_path_that_the_locale_cannot_write() -> None:
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for key, value in (("ipc", "/tmp/\\u00e9"), ("http", "unix:/tmp/\\u00e9")):
        _, lines = check("--set", f'api.{key}="{value}"', status=2, **ascii_only)
        assert lines[0].startswith(f"fabstird: --set: api.{key}: must be ")
        check("--set", f'api.{key}="{value}"', LC_ALL="C.UTF-8")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """A relative path has nothing to begin in."""
    gone = tmp_path / "gone"
    for program, *rest in (("fabstird", "id", "--data-dir", "x"), ("fabstir", "--data-dir", "x", "status")):
        gone.mkdir()
        shell = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        command = ["sh", "-c", shell, "sh", str(gone), *words(program, *rest)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "x: the folder that this begins in is gone" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[node]\r\nmax_retries = 7\r\n")
    assert check(str(path))[0]["node"]["max_retries"] == 7


def test_what_has_no_end_is_not_read_to_it() -> None:
    assert "is larger than" in check("/dev/zero", status=2)[1][0]
    assert "cannot be read: Is a directory" in check("/", status=2)[1][0]


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_configuration_or_mistakes_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    for line in _mistakes(partial(load, path, {})):
        assert line.isprintable()
        assert line.startswith(str(path))


def _mistakes(read: Callable[[], object]) -> list[str]:
    try:
        read()
    except ConfigError as error:
        return error.mistakes
    return []


@given(text=st.text(max_size=100))
def test_any_text_is_a_value_or_a_mistake_in_words(text: str) -> None:
    for key in ("node.bootstrap_nodes", "node.max_retries", "api.http", "api.ipc", "api.allowed_hosts", "log.level"):
        for line in _mistakes(partial(load, None, {"HOME": "/nonexistent"}, [f"{key}={text}"])):
            assert line.isprintable()


# --------------------------------------------------------------------------------------------------------------------
# The environment


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FABSTIRD_NODE_AUTO_START", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIRD__NODE__AUTO_START", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIRD_NODE___AUTO_START", "auto_start"),
        ("fabstird_node__auto_start", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIRD_Node__Auto_Start", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIR_NODE__AUTO_START", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIRD_NODE.AUTO_START", "FABSTIRD_NODE__AUTO_START"),
        ("FABSTIRD_NODE__AUTOSTART", "auto_start"),
        ("FABSTIRD_NODES__AUTO_START", "node"),
        ("FABSTIRD_LOGLEVEL", "FABSTIRD_LOG__LEVEL"),
        ("FABSTIRD_CONFIG_FILE", "FABSTIRD_CONFIG"),
        ("FABSTIRD_API_HTTP", "FABSTIRD_API__HTTP"),
    ],
)
def test_a_mistyped_variable_is_told_and_the_nearest_named(name: str, meant: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, {name: "false", "HOME": "/nonexistent"})
    (line,) = raised.value.mistakes
    assert line.startswith(f"environment variable {name}: ")
    assert line.endswith(f"; did you mean {meant}?")


def test_a_mistyped_variable_ends_the_start_with_2(tmp_path: Path) -> None:
    done = run("fabstird", "run", "--data-dir", str(tmp_path / "d"), env=environment(FABSTIRD_LOG_LEVEL="debug"))
    assert done.returncode == 2
    assert "FABSTIRD_LOG_LEVEL: is not known; did you mean FABSTIRD_LOG__LEVEL?" in done.stderr


def test_what_is_not_meant_for_it_is_let_be() -> None:
    """Kubernetes puts these beside every service that is called fabstird; the client has variables of its own."""
    kubernetes = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_4780_TCP", "PORT_4780_TCP_ADDR")
    environ = {f"FABSTIRD_{name}": "tcp://10.0.0.1:4780" for name in kubernetes}
    ours = {"FABSTIR_API": "ipc:/x", "FABSTIR_TOKEN": "x", "FABSTIR_TOKEN_FILE": "/x", "FABSTIRD_CONFIG": ""}
    assert load(None, {**environ, **ours, "HOME": "/nonexistent"}).node.auto_start


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[node]\nbootstrap_node = []\n[nod]\nx = 1\n")
    _, lines = check(str(path), "--set", "log.levle=debug", status=2)
    assert [line.rpartition("; ")[2] for line in lines] == [
        "did you mean bootstrap_nodes?",
        "did you mean node?",
        "did you mean level?",
    ]


@pytest.mark.parametrize(
    "token", ["\ufeffabcdefghijklmnopqrstuvwxyz", "abcdefghijklmnop\nqrstuvwxyz", "ab cd", "tökentökentökentöken"]
)
@pytest.mark.parametrize("way", ["variable", "file"])
def test_a_token_that_is_none(tmp_path: Path, token: str, way: str) -> None:
    environ = {"FABSTIR_API": "http://127.0.0.1:9", "HOME": str(tmp_path), "FABSTIR_TOKEN": token}
    if way == "file":
        path = tmp_path / "token"
        path.write_text(token, encoding="utf-8")
        environ |= {"FABSTIR_TOKEN": "", "FABSTIR_TOKEN_FILE": str(path)}
    done = run("fabstir", "status", env=environment(**environ))
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds characters that no token has" in done.stderr


# --------------------------------------------------------------------------------------------------------------------
# What is allowed, and will hardly be meant


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('node.bootstrap_nodes=["/ip4/1.2.3.4/tcp/1/p2p/cannot-be-decoded"]', "cannot-be-decoded"),
        (f'node.bootstrap_nodes=["/ip4/1.2.3.4/tcp/99999{PEER}"]', "99999"),
        (f'node.bootstrap_nodes=["/ip4/1.2.3.999/tcp/1{PEER}"]', "1.2.3.999"),
        ("streams.max_message_bytes=2000000", "api.max_request_bytes allows 1048576"),
        ("api.max_answer_bytes=1000000", "api.max_answer_bytes allows 1000000"),
        ("api.max_answer_bytes=40000000", "api.max_send_queue_bytes allows 33554432 to wait"),
        ("api.max_batch=3000", "api.max_request_values allows 10000"),
        ("connections.max_per_ip=300", "are more than connections.max (256)"),
        ("streams.max_open_per_peer=2000", "are more than streams.max_open (1024)"),
        ("node.dial_timeout=90000", "ends after node.request_timeout (60000) already"),
        ("events.heartbeat=45000", "clients take 45000 ms without a word for a dead connection"),
        ("events.max_bytes=100", "one event may have 8192 bytes"),
        ("dht.max_value_bytes=300000", "no message of the DHT may have more than 262144 bytes"),
        ("api.http=0.0.0.0:4780", "is open to the network"),
        ("api.http=[::]:4780", "is open to the network"),
    ],
)
def test_it_is_warned_of_and_strict_refuses_it(setting: str, words: str) -> None:
    _, lines = check("--set", setting)
    assert len(lines) == 1
    assert lines[0].startswith("fabstird: warning: ")
    assert words in lines[0]
    shown, again = check("--strict", "--set", setting, status=2)
    assert (shown, again) == ({}, lines)


def test_a_relay_needs_a_connection_for_each_reservation() -> None:
    small = ("--set", "connections.max=100")
    assert check(*small)[1] == []
    (line,) = check(*small, "--set", "relay.serve=true")[1]
    assert line.endswith("relay.max_reservations: each of 128 needs a connection; connections.max allows 100")


def test_the_limits_of_others_are_theirs() -> None:
    """The daemon imports neither, and knows both."""
    assert doubts.CLIENTS_PATIENCE == SILENCE * 1000
    assert doubts.DHT_MESSAGE == MAX_MESSAGE


def test_nothing_is_said_of_the_defaults() -> None:
    assert check("--strict", HOME="/nonexistent")[1] == []


# --------------------------------------------------------------------------------------------------------------------
# Allow-lists


@pytest.mark.parametrize(
    ("entry", "normal"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST.", "localhost"),
        ("example.org:8080", "example.org"),
        ("example.org/", "example.org"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]:4780", "::1"),
        ("::ffff:127.0.0.1", "::ffff:7f00:1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_are_normalised(entry: str, normal: str) -> None:
    assert checks.hosts([entry]) == (normal,)
    assert checks.hosts([normal]) == (normal,)


@pytest.mark.parametrize(
    ("entry", "normal"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("HTTP://LocalHost:3000/", "http://localhost:3000"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80/", "http://example.org"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_normalised(entry: str, normal: str) -> None:
    assert checks.origins([entry]) == (normal,)


@pytest.mark.parametrize(
    "entry", ["*", "*.example.org", "http://localhost", "a b", "", "host/path", "[::1", "user@host"]
)
def test_hosts_that_are_none_are_refused_in_words(entry: str) -> None:
    assert "api.allowed_hosts" in check("--set", f"api.allowed_hosts=[{json.dumps(entry)}]", status=2)[1][0]


@pytest.mark.parametrize("entry", ["*", "http://*", "null", "localhost:3000", "http://a/path", "http://a:x", "//a", ""])
def test_origins_that_are_none_are_refused_in_words(entry: str) -> None:
    assert "api.allowed_origins" in check("--set", f"api.allowed_origins=[{json.dumps(entry)}]", status=2)[1][0]
