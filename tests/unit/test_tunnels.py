"""Where tunnels may lead, and what a target is told of a peer."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
import trio.testing

from fabstir_client.api.errors import Forbidden, InvalidParams
from fabstird.config.tunnels import rule
from fabstird.p2p.transport.proxied import SIGNATURE
from fabstird.p2p.tunnels.listen import connect
from fabstird.p2p.tunnels.proxy_header import header
from fabstird.p2p.tunnels.targets import check_allowed, parse
from fabstird.threads import NAMES, waiting

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@pytest.mark.parametrize(
    ("text", "host", "port", "allowed"),
    [
        ("10.0.0.5:22", "10.0.0.5", 22, True),
        ("10.0.0.5:22", "10.0.0.5", 23, False),
        ("10.0.0.5:22", "10.0.0.6", 22, False),
        ("10.0.0.5:22", "::ffff:10.0.0.5", 22, True),
        ("192.168.1.0/24:*", "192.168.1.200", 8080, True),
        ("192.168.1.0/24:*", "192.168.2.1", 8080, False),
        ("192.168.1.0/24:*", "192.168.1.evil", 8080, False),
        ("[fd00::/8]:80", "fd00::1", 80, True),
        ("[fd00::/8]:80", "10.0.0.5", 80, False),
        ("db.example:5432", "DB.example", 5432, True),
        ("db.example:5432", "db.example.evil", 5432, False),
    ],
)
def test_rules_allow_what_they_say(text: str, host: str, port: int, allowed: bool) -> None:
    assert rule(text).allows(host, port) is allowed


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.5", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0/99:1", "::1:80", ":22", "a b:1", "1.2:*x"],
)
def test_rules_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        rule(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:22", "127.8.9.1:1", "localhost:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "unix:/run/x.sock"]
)
def test_this_machine_needs_no_rule(text: str) -> None:
    check_allowed("target", parse("target", text), (), "tunnel.listen")


@pytest.mark.parametrize("text", ["10.0.0.5:22", "0.0.0.0:22", "[::]:22", "example.com:80", "[::ffff:10.0.0.5]:22"])
def test_other_machines_do(text: str) -> None:
    with pytest.raises(Forbidden) as caught:
        check_allowed("target", parse("target", text), ("10.0.0.5:23",), "tunnel.listen")
    assert caught.value.data["configKey"] == "tunnels.allow"


@pytest.mark.parametrize(
    "text", ["", "22", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "unix:x", "unix:/" + "x" * 120, "unix:/a\0b"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams, match="target"):
        parse("target", text)


def test_the_header_holds_the_peers_address_and_its_id() -> None:
    entry = b"\xe0\x00\x34" + PEER.encode()
    assert header(PEER, "192.0.2.7", 4001) == (
        SIGNATURE
        + b"\x21\x11"
        + (12 + len(entry)).to_bytes(2, "big")
        + b"\xc0\x00\x02\x07"
        + bytes(4)
        + b"\x0f\xa1\0\0"
        + entry
    )
    six = header(PEER, "2001:db8::1", 4001)
    assert six[12:16] == b"\x21\x21" + (36 + len(entry)).to_bytes(2, "big")
    assert six.endswith(entry)
    assert header(PEER, None, None) == SIGNATURE + b"\x21\x00" + len(entry).to_bytes(2, "big") + entry


async def test_streams_to_a_name_that_is_never_resolved_keep_no_thread_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty of them took all threads that trio has; a start of the node, or a dump, waited for name servers."""
    found, real = threading.Event(), socket.getaddrinfo

    def slowly(host: str, *args: object, **named: object) -> object:
        if host == "slow.example":
            found.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return real(host, *args, **named)  # type: ignore[arg-type]

    async def one() -> None:
        with pytest.raises(OSError, match="name server"):
            await connect(parse("target", "slow.example:80"))

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    shared = trio.to_thread.current_default_thread_limiter()
    with socket.create_server(("127.0.0.1", 0)) as program:
        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for _ in range(60):
                        nursery.start_soon(one)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert (waiting()["nameThreads"][0], shared.borrowed_tokens) == (NAMES, 0)
                    (await connect(parse("target", f"127.0.0.1:{program.getsockname()[1]}"))).close()
                    found.set()
        finally:
            found.set()
