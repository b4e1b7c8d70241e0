"""What is answered past h11 is what h11 would have made of it, and nothing else is."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fabstird.api.http1 import _Requests
from fabstird.api.plain_post import read_head

NAMES = [
    *("Host", "host", "Content-Length", "content-length", "Content-Type", "Authorization", "Origin", "Connection"),
    *(
        "Transfer-Encoding",
        "Expect",
        "Upgrade",
        "TE",
        "Trailer",
        "X-A",
        "accept",
        "",
        "X A",
        "X\x00",
        "Host ",
        "\tHost",
    ),
]
VALUES = [
    *("localhost", "5", "05", "-5", "+5", "5,5", "5 5", "0x5", "", " 5 ", "\t5", "5\t", "keep-alive", "close"),
    *("keep-alive, close", "chunked", "100-continue", "h2c", "a  b", "a\tb", "\xe4", "a\x00", "a\rb", "a\nb", "a\x0bb"),
]
spaces = st.sampled_from(["", " ", "\t", "  "])
line = st.tuples(st.sampled_from(NAMES), spaces, st.sampled_from(VALUES), spaces).map(
    lambda parts: f"{parts[0]}:{parts[1]}{parts[2]}{parts[3]}"
)
first = st.sampled_from(
    ["POST /rpc HTTP/1.1"] * 6 + ["POST /rpc HTTP/1.0", "post /rpc HTTP/1.1", "POST  /rpc HTTP/1.1"]
)
likely = st.permutations(["Host: localhost", "Content-Length: 5", "Content-Type: application/json"])
heads = st.tuples(first, likely, st.lists(line, max_size=2), st.sampled_from(["\r\n"] * 4 + ["\n", "\r", "\r\n "])).map(
    lambda parts: parts[3].join([parts[0], *parts[1], *parts[2]]).encode("latin-1")
)


@settings(max_examples=1000)
@given(heads)
@example(b"POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Length: 5")
@example(b"POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: Keep-Alive")
def test_h11_reads_the_same(head: bytes) -> None:
    found = read_head(head)
    if found is None:
        return
    headers, length = found
    connection = _Requests(h11.SERVER)
    connection.receive_data(head + b"\r\n\r\n" + b"x" * length)
    request = connection.next_event()
    assert (request.method, request.target, request.http_version) == (b"POST", b"/rpc", b"1.1")
    assert [(name, [value]) for name, value in request.headers] == list(headers.items())
    assert not connection.they_are_waiting_for_100_continue
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        body += event.data
    assert len(body) == length
    assert connection.trailing_data == (b"", False)
    assert connection.their_state is h11.DONE, "it is kept for the next request"


RIGHT = "Host: localhost\r\nContent-Type: application/json\r\n"


def test_what_programs_send_is_plain() -> None:
    for more in ("", "Connection: keep-alive\r\n", "Accept: */*\r\nUser-Agent: Python/3.11 (x; y)\r\n"):
        head = f"POST /rpc HTTP/1.1\r\n{RIGHT}{more}Authorization: Bearer x\r\nContent-Length: 40"
        assert read_head(head.encode()) is not None


@pytest.mark.parametrize(
    "head",
    [
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Accept: */*",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\nContent-Length: 5",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\nTransfer-Encoding: chunked",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\nExpect: 100-continue",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\nConnection: close",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\nHost: localhost",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5\r\n folded",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}Content-Length : 5",
        f"POST /rpc HTTP/1.1\n{RIGHT}Content-Length: 5",
        f"POST /rpc?x HTTP/1.1\r\n{RIGHT}Content-Length: 5",
        f"POST http://localhost/rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5",
        f"GET /rpc HTTP/1.1\r\n{RIGHT}Content-Length: 5",
        f"POST /rpc HTTP/1.1\r\n{RIGHT}X: {'x' * 8192}\r\nContent-Length: 5",
        "POST /rpc HTTP/1.1\r\nContent-Length: 5",
    ],
)
def test_what_is_unusual_is_left_to_h11(head: str) -> None:
    assert read_head(head.encode()) is None
