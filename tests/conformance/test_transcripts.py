"""Golden transcripts, replayed over IPC, `POST /rpc` and `/ws` alike. Their form is that of `transcripts/*.txt`:

    >> TEXT         is sent: a line, a body, a message. `$name` stands for what was captured, `⟨9*x⟩` for xxxxxxxxx
    >>hex BYTES     the same, in hexadecimal
    >>end TEXT      is sent without its newline, and is the end of what we send (IPC)
    << PATTERN      is what comes next: `"$name"` captures a value, or must equal what it captured; `"$_"` is any value
    <<any PATTERN   is among what comes before the next line that is sent, in any order
    <<nothing       is what comes (over HTTP: 204); whatever came would be taken for the answer to the next line
    <<closed        the connection ends

`transports:` and `daemon:` at the head say over what, and with which daemon, if not over all and with the usual one.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.harness import ANSWER, Ipc, Process, Ws, ipc, post, process, ws

TRANSCRIPTS = Path(__file__).parent / "transcripts"
SETTINGS = {"node.auto_start": False, "events.heartbeat": 400, "log.level": "warning"}
LAST = {"jsonrpc": "2.0", "id": "last", "method": "version"}
NOTHING = object()


def heads(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if re.match(r"(transports|daemon): ", line))


CASES = [
    pytest.param(path, transport, id=f"{path.stem}-{transport}")
    for path in sorted(TRANSCRIPTS.glob("*.txt"))
    for transport in heads(path).get("transports", "ipc http ws").split()
]


@pytest.fixture(scope="module")
def daemons() -> Iterator[dict[str, Process]]:
    with (
        process(SETTINGS) as usual,
        process(SETTINGS, module="tests.conformance.specification_daemon") as specification,
    ):
        for one in (usual, specification):
            trio.run(one.ready)
        yield {"usual": usual, "specification": specification}
        for one in (usual, specification):
            trio.run(one.stop)


class Conversation:
    """How one transport carries a transcript: `answers` to what is sent come by `receive`, None at the end."""

    send: Callable[[bytes], Awaitable[None]]
    receive: Callable[[], Awaitable[Any]]
    end: Callable[[bytes], Awaitable[None]] | None = None


@asynccontextmanager
async def conversation(running: Process, transport: str) -> AsyncIterator[Conversation]:
    talk = Conversation()
    if transport == "http":
        answers: list[Any] = []

        async def exchange(text: bytes) -> None:
            reply = await post(running, text)
            assert (reply.status, bool(reply.body)) in ((200, True), (204, False)), reply
            answers.append(reply.json if reply.body else NOTHING)

        async def take() -> Any:
            return answers.pop(0)

        talk.send, talk.receive = exchange, take
        yield talk
        assert answers == []
        return
    opened: Any = {"ipc": ipc, "ws": ws}[transport](running)
    async with opened as connection:
        assert isinstance(connection, Ipc | Ws)

        async def receive() -> Any:
            with trio.fail_after(ANSWER):
                text = await connection.receive_text()
            if text is not None:
                connection.held.received(text)
            return None if text is None else json.loads(text)

        async def send(text: bytes) -> None:
            connection.held.sent(text)
            if isinstance(connection, Ws):  # as bytes: some of them are no text
                await connection.websocket.send_message(text)
            else:
                await connection.send_text(text)

        talk.send, talk.receive = send, receive
        if isinstance(connection, Ipc):

            async def end(text: bytes) -> None:
                connection.held.sent(text)
                await connection.stream.send_all(text)
                await connection.stream.send_eof()

            talk.end = end
        yield talk


@pytest.mark.parametrize(("path", "transport"), CASES)
async def test_transcript(daemons: dict[str, Process], path: Path, transport: str) -> None:
    lines = path.read_text().splitlines()  # noqa: ASYNC240 - a small file
    with trio.fail_after(len(lines) * ANSWER):  # heartbeats alone would go on for ever
        await played(daemons, path, lines, transport)


async def played(daemons: dict[str, Process], path: Path, lines: list[str], transport: str) -> None:
    """Say and expect what the transcript says."""
    captured: dict[str, Any] = {}
    pending: list[tuple[int, Any]] = []  # `<<any`, with their line numbers
    ended = False
    async with conversation(daemons[heads(path).get("daemon", "usual")], transport) as talk:

        async def settle() -> None:
            """Take in what `<<any` asks for."""
            while pending:
                came = await talk.receive()
                for place, (_, pattern) in enumerate(pending):
                    if matches(pattern, came, captured):
                        del pending[place]
                        break
                else:
                    assert beats(came), f"{path.name}: none of lines {[n for n, _ in pending]}: {came!r}"

        for number, line in enumerate(lines, start=1):
            where = f"{path.name}, line {number}"
            kind, _, rest = line.partition(" ")
            if kind == "<<any":
                pending.append((number, json.loads(rest)))
                continue
            if line.startswith((">>", "<<")):
                await settle()
            if kind == ">>":
                await talk.send(filled(rest, captured).encode())
            elif kind == ">>hex":
                await talk.send(bytes.fromhex(rest))
            elif kind == ">>end":
                assert talk.end is not None
                await talk.end(filled(rest, captured).encode())
            elif kind == "<<":
                expected = json.loads(rest)
                while not matches(expected, came := await talk.receive(), captured):
                    assert beats(came), f"{where}: {came!r}"
            elif kind == "<<nothing" and transport == "http":
                assert await talk.receive() is NOTHING, where
            elif kind == "<<closed":
                assert await talk.receive() is None, where
                ended = True
        await settle()
        if not ended:  # nothing is left over
            await talk.send(json.dumps(LAST).encode())
            while beats(came := await talk.receive()):
                pass
            assert came["id"] == "last"


def beats(message: Any) -> bool:
    """Whether it is a heartbeat: on a busy machine there is silence, of which it tells, also where none is expected."""
    return isinstance(message, dict) and message.get("method") == "heartbeat"


def filled(text: str, captured: dict[str, Any]) -> str:
    """With what was captured, and with repetitions carried out."""
    text = re.sub(r"\$([a-z]+)", lambda found: str(captured[found[1]]), text)
    return re.sub(r"⟨(\d+)\*(.*?)⟩", lambda found: found[2] * int(found[1]), text)


def matches(pattern: Any, value: Any, captured: dict[str, Any]) -> bool:
    """Whether the value is as the pattern says; what that captures is kept only where it is."""
    found = dict(captured)
    if not _matches(pattern, value, found):
        return False
    captured.update(found)
    return True


def _matches(pattern: Any, value: Any, captured: dict[str, Any]) -> bool:
    if isinstance(pattern, str) and pattern.startswith("$"):
        return pattern == "$_" or bool(captured.setdefault(pattern[1:], value) == value)
    if isinstance(pattern, dict):
        return (
            isinstance(value, dict)
            and pattern.keys() == value.keys()
            and all(_matches(pattern[key], value[key], captured) for key in pattern)
        )
    if isinstance(pattern, list):
        return (
            isinstance(value, list)
            and len(pattern) == len(value)
            and all(_matches(one, other, captured) for one, other in zip(pattern, value, strict=True))
        )
    return type(pattern) is type(value) and bool(pattern == value)
