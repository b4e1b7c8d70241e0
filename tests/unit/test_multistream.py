"""multistream-select: what is agreed on, in however many pieces it comes, and what is refused."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.p2p.wire import multistream
from fabstird.p2p.wire.multistream import NegotiationError, ProtocolNotSupported

HEADER = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"
NA = b"\x03na\n"


class End(Exception):
    """There is nothing more to read."""


class Wire:
    """Bytes that come in the given pieces, and the writes that went out."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = deque(pieces)
        self.written: list[bytes] = []

    async def read(self) -> bytes:
        if not self.pieces:
            raise End
        return self.pieces.popleft()

    async def write(self, data: bytes) -> None:
        self.written.append(data)


async def test_a_proposal_is_answered_in_one_write() -> None:
    wire = Wire(HEADER + NOISE + b"more")
    assert await multistream.answer(wire.read, wire.write, ("/noise",)) == ("/noise", b"more")
    assert wire.written == [HEADER + NOISE]


async def test_a_side_that_waits_for_the_header_gets_it() -> None:
    wire = Wire(HEADER, NOISE)
    assert await multistream.answer(wire.read, wire.write, ("/noise",)) == ("/noise", b"")
    assert wire.written == [HEADER, NOISE]


async def test_what_is_not_known_is_refused_and_the_next_proposal_taken() -> None:
    wire = Wire(HEADER + b"\x05/tls\n" + NOISE)
    assert await multistream.answer(wire.read, wire.write, ("/noise",)) == ("/noise", b"")
    assert wire.written == [HEADER + NA + NOISE]


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n" * 8, b"\x00", b"\xff\xff\xff", b"\x05abcdef", b"\x13/multistream/2.0.0\n", b"\x81\x80"],
    ids=["http", "empty line", "too long", "no end", "another version", "just too long"],
)
async def test_another_language_is_an_error(garbage: bytes) -> None:
    wire = Wire(garbage)
    with pytest.raises(NegotiationError):
        await multistream.answer(wire.read, wire.write, ("/noise",))
    assert wire.written == []


async def test_asking_hands_back_what_came_after_the_agreement() -> None:
    wire = Wire(HEADER[:4], HEADER[4:] + NOISE + b"early")
    assert await multistream.ask(wire.read, wire.write, "/noise") == b"early"
    assert wire.written == [HEADER + NOISE]


async def test_a_refusal_has_its_own_error() -> None:
    wire = Wire(HEADER + NA)
    with pytest.raises(ProtocolNotSupported, match="/noise is not supported"):
        await multistream.ask(wire.read, wire.write, "/noise")


async def test_another_answer_is_quoted() -> None:
    wire = Wire(HEADER + b"\x05/tls\n")
    with pytest.raises(NegotiationError, match="/noise was answered by '/tls'"):
        await multistream.ask(wire.read, wire.write, "/noise")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=250), st.data())
async def test_the_two_sides_agree_whatever_the_name_and_the_pieces(name: str, data: st.DataObject) -> None:
    asking = Wire()
    with pytest.raises(End):
        await multistream.ask(asking.read, asking.write, name)
    sent = b"".join(asking.written)
    cut = data.draw(st.integers(0, len(sent)))
    answering = Wire(*(piece for piece in (sent[:cut], sent[cut:]) if piece))
    assert await multistream.answer(answering.read, answering.write, (name,)) == (name, b"")
    asked = Wire(*(bytes((byte,)) for byte in b"".join(answering.written)))
    assert await multistream.ask(asked.read, asked.write, name) == b""


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=20))
async def test_garbage_is_an_error_or_wants_more(pieces: list[bytes]) -> None:
    wire = Wire(*pieces)
    with pytest.raises((NegotiationError, End)):
        await multistream.answer(wire.read, wire.write, ("/noise",))
    wire = Wire(*pieces)
    with pytest.raises((NegotiationError, NegotiationError, ProtocolNotSupported, End)):
        await multistream.ask(wire.read, wire.write, "/noise")


@pytest.mark.parametrize("in_turns", [False, True])
async def test_asking_in_turns_names_the_protocol_after_the_greeting(in_turns: bool) -> None:
    written: list[bytes] = []
    answers = [b"\x13/multistream/1.0.0\n", b"\x07/noise\nmore"]

    async def write(data: bytes) -> None:
        written.append(data)

    async def read() -> bytes:
        return answers.pop(0)

    assert await multistream.ask(read, write, "/noise", in_turns=in_turns) == b"more"
    greeting, name = b"\x13/multistream/1.0.0\n", b"\x07/noise\n"
    assert written == ([greeting, name] if in_turns else [greeting + name])


async def test_what_is_said_first_goes_out_with_the_proposal() -> None:
    wire = Wire(HEADER + NOISE + b"answer")
    assert await multistream.ask(wire.read, wire.write, "/noise", first=b"question") == b"answer"
    assert wire.written == [HEADER + NOISE + b"question"]
    wire = Wire(HEADER + NOISE + b"question")
    assert await multistream.answer(wire.read, wire.write, ("/noise",)) == ("/noise", b"question")
