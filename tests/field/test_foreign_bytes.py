"""Whatever bytes lie in a file, come from a stranger or stand in a variable: they are taken, or refused in words.

Drawn bytes are of three kinds: any at all, real ones with a few of them changed, and JSON of the right shape with
values that nobody expects. The configuration is in `test_configuration`, peers in `test_foreign_messages`, calls in
tests/conformance/test_fuzz.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabstir_client import FabstirError
from fabstir_client._core import calls
from fabstir_client._core.discovery import Candidate, Target
from fabstir_client._core.protocol import Call, Pending, Session
from fabstird.config import ConfigError, load
from fabstird.datadir import DataDirError, read_token
from fabstird.identity import Identity, IdentityError, load_or_make
from fabstird.p2p.dht.republish_store import Kept
from fabstird.p2p.net.resolve import ResolveError, resolve
from fabstird.p2p.peers.book import Book
from fabstird.p2p.ports import Ports
from fabstird.p2p.tunnels.store import Store
from fabstird.p2p.wire.addresses import parse
from fabstird.rpc.tokens import Tokens
from tests.harness import ANSWER, Process, exchange, ipc, process, request_text, upgrade_text
from tests.unit.test_resolve import name_server

ID = Identity.from_seed(b"1" * 32).peer_id
ODD = st.sampled_from(
    [10**30, -(10**30), 2**63, 2**64, -1, 1e308, "\0", "\x1b[2J", "é" * 300, "", None, True, [], {}, [[]]]
)
JSON = st.recursive(ODD | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def changed(real: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes, and the real ones with some changed, cut or doubled."""

    @st.composite
    def some(draw: st.DrawFn) -> bytes:
        content = bytearray(real)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(content) - 1)))
            content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
        return bytes(content)

    return st.binary(max_size=300) | some() | st.integers(0, len(real)).map(lambda end: real[:end])


def shaped(real: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The JSON of ``real``, with one of its values, however deep, replaced."""
    places = list(_places(real))

    @st.composite
    def some(draw: st.DrawFn) -> bytes:
        whole = json.loads(json.dumps(real))
        *path, last = draw(st.sampled_from(places))
        inner = whole
        for step in path:
            inner = inner[step]
        inner[last] = draw(JSON)
        return json.dumps(whole).encode("utf-8", "replace")

    return some()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def foreign(real: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return shaped(real) | changed(json.dumps(real).encode())


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def refusal(kind: type[Exception], run: Callable[[], object]) -> str | None:
    """The words in which it is refused; None where it is taken. Anything else that it raises fails the test."""
    try:
        run()
    except kind as error:
        return str(error)
    return None


def read_file(folder: Path, name: str, content: bytes, read: Callable[[Path], object]) -> None:
    """It is read, or set aside; nothing else lies there afterwards."""
    path = folder / name
    path.write_bytes(content)
    read(path)
    aside = list(folder.glob(f"{name}.damaged-*"))
    assert path.exists() != bool(aside)
    for one in (path, *aside):
        one.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------------
# Files of the data directory

PEERS = {
    "version": 1,
    "peers": {ID: {"addresses": [f"/ip4/192.0.2.1/tcp/1/p2p/{ID}"], "lastSeen": 1767225600000}},
    "kept": [f"/ip4/192.0.2.1/tcp/1/p2p/{ID}"],
    "bans": [{"target": "192.0.2.0/24", "since": 1, "until": 99999999999999, "reason": "x"}],
}


def read_book(path: Path) -> None:
    book = Book(path)
    book.load()
    book.encode()
    for ban in book.bans.all():
        assert str(ban)
        ban.covers("192.0.2.1", ID)
    book.bans.of_ip("192.0.2.1")
    book.latest(8)
    book.seen(ID, [])


@given(content=foreign(PEERS))
def test_peers_json(folder: Path, content: bytes) -> None:
    read_file(folder, "peers.json", content, read_book)


@given(content=foreign({"version": 1, "ports": {"/ip4/0.0.0.0/tcp/0": [4001, 4002]}}))
def test_ports_json(folder: Path, content: bytes) -> None:
    def read(path: Path) -> None:
        ports = Ports(path)
        trio.run(ports.load)
        assert all(0 < port < 65536 for some in ports.known().values() for port in some)

    read_file(folder, "ports.json", content, read)


TOKENS = {
    "version": 1,
    "tokens": [
        {"name": "app", "access": "read", "methods": ["status"], "digest": "ab" * 32, "created": 1, "expires": 2}
    ],
}


@given(content=foreign(TOKENS))
def test_tokens_json(folder: Path, content: bytes) -> None:
    def read(path: Path) -> None:
        tokens = Tokens(path, "x" * 32, 256)
        tokens.load()
        for one in tokens.all():
            assert one.to_dict()
        if (grant := tokens.find(b"y" * 32)) is not None:
            grant.ended()

    read_file(folder, "tokens.json", content, read)


TUNNELS = {
    "version": 1,
    "tunnels": [{"tunnelId": "t", "kind": "listen", "protocol": "/x/1", "end": "127.0.0.1:22", "peers": [ID]}],
}


@given(content=foreign(TUNNELS))
def test_tunnels_json(folder: Path, content: bytes) -> None:
    read_file(folder, "tunnels.json", content, lambda path: trio.run(Store(path).read))


@given(content=foreign({"version": 1, "records": [{"key": "a2V5", "value": "dmFsdWU=", "announced": 1.5}]}))
def test_dht_json(folder: Path, content: bytes) -> None:
    def read(path: Path) -> None:
        kept = Kept(path)
        kept.load()
        for entry in kept.all():
            assert kept.provides(entry.key) or kept.get(entry.name)

    read_file(folder, "dht.json", content, read)


@given(content=changed(b"\x08\x01\x12\x40" + bytes(64)))
def test_identity_key_and_api_token(folder: Path, content: bytes) -> None:
    for name, read, refused in (("identity.key", load_or_make, IdentityError), ("api.token", read_token, DataDirError)):
        path = folder / name
        path.write_bytes(content)
        words = refusal(refused, partial(read, path if name == "identity.key" else folder))
        assert words is None or words.isprintable()
        assert path.read_bytes() == content  # what somebody has put there stays
        path.unlink()


# --------------------------------------------------------------------------------------------------------------------
# What the client reads


@given(content=foreign({"pid": os.getpid(), "epoch": "e", "version": "1", "ipc": None, "http": "127.0.0.1:4780"}))
def test_api_json(folder: Path, content: bytes) -> None:
    (folder / "api.json").write_bytes(content)
    (folder / "api.token").write_text("x" * 32)
    found = list(Target(data_dir=folder).candidates({}))
    assert all(isinstance(one, Candidate) and (one.endpoint or one.reason) for one in found)
    assert found[-1].endpoint is not None  # the socket is tried all the same
    (folder / "api.json").unlink()
    (folder / "api.token").unlink()


def _settled(call: Call[Any], pending: Pending[None]) -> object:
    return call.read(pending.take())


STATUS = {"jsonrpc": "2.0", "id": 1, "result": {"state": "started", "connected": True, "peerId": ID, "head": 1}}
EVENT = {
    "jsonrpc": "2.0",
    "method": "event",
    "params": {"epoch": "e", "seq": 1, "time": 1, "type": "error", "data": {}},
}
ERROR = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32002, "message": "m", "data": {"code": "TIMEOUT", "x": [1]}}}


@given(content=foreign(STATUS) | foreign(EVENT) | foreign(ERROR))
def test_answers_of_something_that_is_no_daemon(content: bytes) -> None:
    """Whatever it sends is a message, or one error of the client's own."""
    for typed in (True, False):
        session: Session[None] = Session(typed=typed)
        call = calls.status()
        pending, _ = session.begin(call, None)
        message = content.replace(b'"id": 1', b'"id": %d' % pending.id)
        assert refusal(FabstirError, partial(session.receive, message)) != ""
        if pending.outcome is not None:
            assert refusal(FabstirError, partial(_settled, call, pending)) != ""


# --------------------------------------------------------------------------------------------------------------------
# The environment, and name servers

NAMES = st.sampled_from(["HOME", "XDG_CONFIG_HOME", "FABSTIRD_CONFIG", "FABSTIRD_NODE__MAX_RETRIES", "FABSTIRD_X__Y"])
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=40)


@given(environ=st.dictionaries(NAMES | st.text(min_size=1, max_size=20).map(lambda name: f"FABSTIRD_{name}"), VALUES))
def test_any_environment_is_read_or_refused_in_words(environ: dict[str, str]) -> None:
    words = refusal(ConfigError, lambda: load(None, environ))
    assert words is None or words.replace("\n", "").isprintable()


CLIENTS = ["FABSTIR_API", "FABSTIR_TOKEN", "FABSTIR_TOKEN_FILE", "HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"]


@given(environ=st.dictionaries(st.sampled_from(CLIENTS), VALUES | VALUES.map(lambda text: f"/{text}")))
@example(environ={"HOME": "\ud800"})
@example(environ={"XDG_RUNTIME_DIR": "/\ud800", "XDG_STATE_HOME": "/\ud800"})
@example(environ={"FABSTIR_API": "ipc:/\ud800"})
@example(environ={"FABSTIR_API": "http://h:1", "FABSTIR_TOKEN_FILE": "\ud800"})
@example(environ={"FABSTIR_API": "http://h:1", "HOME": "\ud800"})
def test_any_environment_of_a_client(environ: dict[str, str]) -> None:
    """Whatever is left to try has a path that the kernel takes."""

    def look() -> None:
        for one in Target().candidates(environ):
            assert one.label
            if one.endpoint is not None and one.endpoint.path is not None:
                os.fsencode(one.endpoint.path)

    assert refusal(FabstirError, look) != ""


@given(text=st.text(st.characters(exclude_categories=()), min_size=1))
@example(text="\0")
@example(text="\ud800")
def test_any_data_directory_and_address_of_a_caller(text: str) -> None:
    for target in (Target(data_dir=text), Target(api=text), Target(api=f"ipc:{text}"), Target(api=f"http://{text}")):
        assert refusal(FabstirError, lambda target=target: list(target.candidates({}))) != ""


TEXT = st.text(
    st.characters(codec="ascii", exclude_characters='"\\', exclude_categories=["Cc"]), min_size=1, max_size=60
)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT | TEXT.map(lambda text: f"dnsaddr={text}") | TEXT.map(lambda text: f"dnsaddr=/ip4/{text}")))
def test_answers_of_name_servers(texts: list[str]) -> None:
    async def ask() -> None:
        async with name_server({"_dnsaddr.x.example": texts or ["y"]}) as resolver:
            try:
                found = await resolve(parse("/dnsaddr/x.example"), resolver=resolver)
            except ResolveError:
                return
            assert all(map(str, found))

    trio.run(ask)


# --------------------------------------------------------------------------------------------------------------------
# Lines, bodies and messages of callers, on a running daemon

CALL = {"jsonrpc": "2.0", "id": 1, "method": "peer.tag", "params": {"peerId": ID, "tag": "t", "value": 1}}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Process]:
    with process({"node.auto_start": False}) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)  # with no error in its log


@settings(max_examples=40, deadline=None)
@given(contents=st.lists(foreign(CALL), min_size=1, max_size=20))
def test_lines_and_bodies(daemon: Process, contents: list[bytes]) -> None:
    """Each is answered, or is a notification; the connection that brought them goes on."""

    async def send() -> None:
        with trio.fail_after(ANSWER):
            async with ipc(daemon) as connection:
                for content in contents:
                    await connection.stream.send_all(content.replace(b"\n", b" ") + b"\n")
                await connection.stream.send_all(b'{"jsonrpc":"2.0","id":"last","method":"version"}\n')
                while (answer := json.loads(await connection.receive_text() or b"null"))["id"] != "last":
                    if "error" in answer:
                        assert answer["error"]["code"] != -32603, answer
            body = contents[0]
            headers = {
                "host": "localhost",
                "authorization": f"Bearer {daemon.token}",
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            assert (await exchange(daemon.port, request_text("POST", "/rpc", headers, body))).status in (200, 204)

    trio.run(send)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.binary(max_size=100) | st.lists(foreign(CALL), max_size=3).map(lambda some: b"".join(map(_frame, some)))
)
def test_websocket_frames(daemon: Process, frames: bytes) -> None:
    """Each connection ends, in time, whatever came on it, and nothing else does."""

    async def send() -> None:
        with trio.fail_after(ANSWER):
            async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
                await stream.send_all(upgrade_text(daemon))
                received = b""
                while b"\r\n\r\n" not in received:
                    received += await stream.receive_some()
                with contextlib.suppress(trio.BrokenResourceError):  # closed with something of ours unread
                    await stream.send_all(frames + _frame(b"\x03\xe8", kind=8))
                    await stream.send_eof()
                    async for _ in stream:
                        pass
        assert received.startswith(b"HTTP/1.1 101 ")

    trio.run(send)


def _frame(data: bytes, kind: int = 1) -> bytes:
    head = (
        bytes((0x80 | kind, 0x80 | len(data))) if len(data) < 126 else struct.pack("!BBH", 0x80 | kind, 254, len(data))
    )
    return head + bytes(4) + data
