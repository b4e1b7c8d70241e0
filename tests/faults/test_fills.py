"""Nothing that a stranger sends, or a caller asks, fills the memory of the process."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstird.p2p.host.identify import PUSH_EVERY, PUSHES_AT_ONCE
from fabstird.rpc import memory
from tests.faults.answering import answering
from tests.harness import Daemon, asked_until, fabstird, until
from tests.support.holding import resident
from tests.support.minipeer import IDENTIFY, PING, Connection, Gone, MiniPeer, Stream, mini_peers
from tests.support.wire import field, varint

MIB = 1024 * 1024
GROWTH = 64 * MIB
WINDOW = 256 * 1024
PUSH = "/ipfs/id/push/1.0.0"
KAD = "/ipfs/kad/1.0.0"
STREAMS = 256  # that a connection may have
PATIENCE = 8.0  # seconds for which one attacks


async def met(daemon: Daemon, peers: list[MiniPeer]) -> list[Connection]:
    """A connection of each peer, from addresses of its own."""
    address = daemon.address("tcp")
    links = [await peer.dial(address, source=f"127.0.7.{number + 1}") for number, peer in enumerate(peers)]
    for peer in peers:
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
    return links


async def stuff(link: Connection, protocol: str | None) -> None:
    """Opens as many streams as there may be, and sends on each what its window takes; ends none."""

    async def one() -> None:
        try:
            with trio.move_on_after(PATIENCE):
                stream = await link.open_stream(protocol)
                await stream.send_all(bytes(WINDOW - 1024))
        except Gone:
            pass  # the daemon does not take all of it

    async with trio.open_nursery() as nursery:
        for _ in range(STREAMS):
            nursery.start_soon(one)


async def most_during(daemon: Daemon, attack: Callable[[Connection], Awaitable[None]], links: list[Connection]) -> int:
    """How many bytes of memory the process had at most while each link was attacked."""
    most = 0
    async with answering(daemon), trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(attack, link)
        while nursery.child_tasks:
            await trio.sleep(0.1)
            most = max(most, resident(daemon))
    return most


async def filled_by_one_and_by_eight(daemon: Daemon, attack: Callable[[Connection], Awaitable[None]]) -> None:
    """First one connection attacks, then eight from as many addresses; the process has grown little after both."""
    async with mini_peers(8) as peers:
        links = await met(daemon, peers)
        before = resident(daemon)
        one = await most_during(daemon, attack, links[:1]) - before
        eight = await most_during(daemon, attack, links) - before
        print(f"{one / MIB:.0f} MiB at most by one connection, {eight / MIB:.0f} MiB by eight")
        assert one < GROWTH, f"{one / MIB:.0f} MiB by one connection"
        assert eight < GROWTH, f"{eight / MIB:.0f} MiB by eight"


@pytest.mark.parametrize(
    "protocol", [None, PING, IDENTIFY, PUSH, KAD], ids=["none", "ping", "answered", "push", "read"]
)
async def test_streams_that_are_never_ended(protocol: str | None) -> None:
    """64 MiB a connection were kept for as long as it lived."""
    async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
        await filled_by_one_and_by_eight(daemon, partial(stuff, protocol=protocol))
        bounds = (await daemon.call("metrics"))["bounds"]
        assert bounds["unreadBytes"]["current"] <= bounds["unreadBytes"]["limit"]


async def test_a_peer_pings_on_eight_streams_at_once() -> None:
    """On 256 of eight peers, what it had been sent and had not read was 79 MiB of the process."""

    async def pinging(link: Connection) -> Stream:
        stream = await link.open_stream(PING)
        await stream.send_all(bytes(32))
        assert await stream.receive_exactly(32) == bytes(32)
        return stream

    async with fabstird() as daemon, mini_peers(2) as peers:
        link, other = await met(daemon, peers)
        held = [await pinging(link) for _ in range(8)]
        with pytest.raises(Gone):
            await pinging(link)
        assert await other.ping() < 20
        await held[0].close()
        assert await held[0].receive_all() == b""
        with trio.fail_after(60):
            while True:
                try:
                    await pinging(link)
                    break
                except Gone:
                    pass  # the end of the first is still on its way


async def test_records_in_the_dht() -> None:
    """Provider records of 9.6 KiB, of as many keys as there are, and values as large as may be."""
    address = b"\x04\x08\x08\x08\x08\x06\x0f\xa1"

    async def record(link: Connection) -> None:
        who = link.peer.identity.public_key
        own = field(1, b"\0" + bytes((len(who),)) + who)
        with trio.move_on_after(PATIENCE):
            stream: Stream | None = None
            while True:
                key = os.urandom(32)
                provider = field(9, own + b"".join(field(2, address + os.urandom(8)) for _ in range(500)))
                value = field(3, field(1, key) + field(2, os.urandom(10_000)))
                for message in (b"\x08\x02" + field(2, key) + provider, b"\x08\x00" + field(2, key) + value):
                    try:
                        stream = stream or await link.open_stream(KAD)
                        await stream.send_all(varint(len(message)) + message)
                    except Gone:
                        stream = None  # the next one is another

    async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
        await filled_by_one_and_by_eight(daemon, record)
        bounds = (await daemon.call("metrics"))["bounds"]
        for name in ("dhtProviderBytes", "dhtValueBytes", "dhtAddressBytes"):
            assert bounds[name]["current"] <= bounds[name]["limit"], name
        status = await daemon.call("dht.status")
        assert status["providedKeys"] > 0, "some were taken"
        assert status["values"] > 0


async def test_pushes_of_identify_are_few_and_small() -> None:
    """60 KiB each, kept in the log of events 8,192 times."""
    async with fabstird() as daemon, mini_peers(8) as peers:
        links = await met(daemon, peers)
        before, began = resident(daemon), trio.current_time()

        async def push(link: Connection) -> None:
            for number in range(150):
                message = b"".join(
                    field(3, f"/push/{number}/{one}/".encode() + os.urandom(100).hex().encode()) for one in range(250)
                )
                try:
                    stream = await link.open_stream(PUSH)
                    await stream.send_all(varint(len(message)) + message)
                    await stream.close()
                    await stream.receive_all()
                except Gone:
                    pass  # it has heard enough

        async with answering(daemon), trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(push, link)
        grown = resident(daemon) - before
        assert grown < GROWTH, f"{grown / MIB:.0f} MiB"
        told = [event for event in daemon.found("peer:identify") if event["data"]["protocols"][0].startswith("/push/")]
        some = PUSHES_AT_ONCE + (trio.current_time() - began) / PUSH_EVERY + 1
        assert 8 <= len(told) <= 8 * some, len(told)
        assert all(len(json.dumps(event["data"])) < 9 * 1024 for event in told)
        bounds = (await daemon.call("metrics"))["bounds"]
        assert 0 < bounds["eventBytes"]["current"] <= bounds["eventBytes"]["limit"]


async def banned(directory: Path, count: int) -> None:
    """As many networks, so that to tell of them takes some 300 bytes for each."""
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": "peer.ban", "params": {"target": network, "reason": "r" * 200}}
        for number, network in enumerate(f"10.{one // 250}.{one % 250}.0/24" for one in range(count))
    ]
    async with await trio.open_unix_socket(str(directory / "api.sock")) as stream:
        for first in range(0, count, 100):
            await stream.send_all(json.dumps(calls[first : first + 100]).encode() + b"\n")
            text = b""
            while not text.endswith(b"\n"):
                text += await stream.receive_some()
            assert all("result" in answer for answer in json.loads(text)), text[:500]


async def test_a_batch_stops_at_the_bytes_that_an_answer_may_have(tmp_path: Path) -> None:
    async with fabstird(tmp_path, {"api.max_answer_bytes": MIB}) as daemon:
        await banned(tmp_path, 500)
        before = resident(daemon)
        calls = [{"jsonrpc": "2.0", "id": number, "method": "peer.bans"} for number in range(100)]
        async with await trio.open_unix_socket(str(tmp_path / "api.sock")) as stream:
            await stream.send_all(json.dumps(calls).encode() + b"\n")
            text = b""
            while not text.endswith(b"\n"):
                text += await stream.receive_some()
        answers = json.loads(text)
        carried = [answer for answer in answers if "result" in answer]
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert 1 <= len(carried) < 10
        assert len(carried) + len(refused) == 100
        assert all(error["data"]["code"] == "TOO_LARGE" for error in refused)
        assert sum("not carried out" in error["message"] for error in refused) > 80, "the rest is not even begun"
        assert resident(daemon) - before < GROWTH


async def test_batches_one_after_the_other_that_are_read_slowly(tmp_path: Path) -> None:
    """The answers to all of them were made at once: 100 MiB of twenty."""
    count = 20
    async with fabstird(tmp_path) as daemon:
        await banned(tmp_path, 200)
        calls = [{"jsonrpc": "2.0", "id": number, "method": "peer.bans"} for number in range(100)]
        before = most = resident(daemon)
        async with answering(daemon), await trio.open_unix_socket(str(tmp_path / "api.sock")) as stream:
            await stream.send_all((json.dumps(calls).encode() + b"\n") * count)
            answered = size = 0
            while answered < count:
                data = await stream.receive_some(256 * 1024)
                assert data, f"{answered} were answered"
                answered += data.count(b"\n")
                size += len(data)
                most = max(most, resident(daemon))
        print(f"{(most - before) / MIB:.0f} MiB at most, for {size / MIB:.0f} MiB of answers")
        assert most - before < GROWTH
        assert size > 80 * MIB, "they were carried out"


async def test_what_is_read_makes_room_again() -> None:
    """A budget that is used up is no sentence: what is read, or reset, is given back."""
    async with fabstird() as daemon, mini_peers(1) as [peer]:
        [link] = await met(daemon, [peer])
        await stuff(link, None)
        await link.aclose()
        await asked_until(lambda: daemon.call("metrics"), lambda told: told["bounds"]["unreadBytes"]["current"] == 0)


async def most_resident(daemon: Daemon) -> int:
    """Bytes, the most that is seen in `PATIENCE`."""
    most = 0
    for _ in range(int(PATIENCE / 0.2)):
        await trio.sleep(0.2)
        most = max(most, resident(daemon))
    return most


async def told(daemon: Daemon, text: bytes) -> Any:
    """The answer, on a connection of its own."""
    async with await trio.open_unix_socket(str(daemon.path)) as stream:
        await stream.send_all(text + b"\n")
        text = b""
        while not text.endswith(b"\n"):
            text += await stream.receive_some()
        return json.loads(text)


def waiting(number: int, *, padding: int = 0, **wanted: object) -> bytes:
    """The text of a call."""
    call = {"jsonrpc": "2.0", "id": number, "method": "wait", "params": {"timeout": 60000, **wanted}}
    return json.dumps(call).encode()[:-1] + b" " * padding + b"}"


async def test_batches_of_calls_that_wait() -> None:
    """Forty callers that never read had the daemon hold 150 MiB, and more callers would have more."""
    never = {"protocol": "/never", "timeout": 600_000}  # longer than anybody waits below
    batch = b"[" + b",".join(waiting(number, **never) for number in range(64)) + b"]\n"
    async with fabstird() as daemon, trio.open_nursery() as nursery:

        async def fill() -> None:
            async with await trio.open_unix_socket(str(daemon.path)) as stream:
                with suppress(trio.BrokenResourceError):  # it is ended where it reads nothing for long
                    await stream.send_all(batch * 64)
                await trio.sleep_forever()

        before = resident(daemon)
        async with answering(daemon):
            for _ in range(40):
                nursery.start_soon(fill)
            most = await most_resident(daemon)
            with trio.fail_after(120):
                assert "result" in await told(daemon, waiting(1, state="started"))
                own = b",".join(waiting(number, state="started") for number in range(3))
                answers = await told(daemon, b"[" + own + b"]")
                assert all("result" in answer for answer in answers), answers
        nursery.cancel_scope.cancel()
        print(f"{(most - before) / MIB:.0f} MiB")
        assert most - before < GROWTH
        bounds = (await daemon.call("metrics"))["bounds"]
        assert bounds["callBytes"]["current"] <= bounds["callBytes"]["limit"]


async def test_callers_share_what_calls_in_flight_may_hold() -> None:
    """What one caller has more than its share is another's, if it has waited for a moment."""
    async with fabstird() as daemon, await trio.open_unix_socket(str(daemon.path)) as greedy:
        long = [waiting(number, padding=1_000_000, protocol="/never", timeout=600_000) for number in range(20)]
        one_more = memory.cost(len(long[0]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greedy.send_all, b"".join(one + b"\n" for one in long))
            bounds = await asked_until(
                lambda: daemon.call("metrics"),
                lambda told: told["bounds"]["callBytes"]["current"] > told["bounds"]["callBytes"]["limit"] - one_more,
            )
            await trio.sleep(1.5 * memory.PATIENCE)  # the newest has waited for a moment too
            assert bounds["bounds"]["callBytes"]["current"] <= bounds["bounds"]["callBytes"]["limit"]
            with trio.fail_after(120):
                other = await told(daemon, waiting(1, padding=1_000_000, protocol="/never", timeout=10))
                assert other["error"]["data"]["code"] == "TIMEOUT"
                text = b""
                while not text.endswith(b"\n"):
                    text += await greedy.receive_some()
            answer = json.loads(text.splitlines()[0])
            assert answer["error"]["data"]["code"] == "LIMIT_EXCEEDED"
            assert 10 < answer["id"] < 20, "its newest one"
            nursery.cancel_scope.cancel()


async def test_long_lines_that_never_end() -> None:
    """A hundred callers that sent a mebibyte each, and no end of it, had the daemon hold a hundred."""
    async with fabstird() as daemon, trio.open_nursery() as nursery:

        async def begin() -> None:
            async with await trio.open_unix_socket(str(daemon.path)) as stream:
                with suppress(trio.BrokenResourceError):  # it may be ended while it sends
                    await stream.send_all(b'{"padding": "' + b"x" * 1_000_000)
                await trio.sleep_forever()

        before = resident(daemon)
        async with answering(daemon):
            for _ in range(120):
                nursery.start_soon(begin)
            most = await most_resident(daemon)
        nursery.cancel_scope.cancel()
        print(f"{(most - before) / MIB:.0f} MiB")
        assert most - before < GROWTH
        with trio.fail_after(120):
            long = await told(daemon, waiting(1, padding=1_000_000, state="started"))
        assert "result" in long, "their places are there again"


async def test_long_texts_over_http_that_never_end() -> None:
    """Of messages of WebSockets each connection could hold one half, as long as it liked; of bodies hypercorn kept ten
    pieces of each. A long text of another caller waited for half a minute."""
    half = b'{"padding": "' + b"x" * 900_000
    async with fabstird(settings={"api.http": "127.0.0.1:0"}) as daemon, trio.open_nursery() as nursery:
        port = int(json.loads((daemon.path.parent / "api.json").read_text())["http"].rpartition(":")[2])
        token = (daemon.path.parent / "api.token").read_text().strip()
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        body = f"POST /rpc HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
        upgrade = (
            f"GET /ws HTTP/1.1\r\n{head}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==\r\n\r\n"
        )
        ends: list[bytes] = []

        async def begin(first: str, then: bytes) -> None:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(first.encode())
                if first is upgrade:
                    assert b"101" in await stream.receive_some()
                try:
                    await stream.send_all(then)
                    ends.append(await stream.receive_some())
                except trio.BrokenResourceError:
                    pass  # it was ended while it sent
                await trio.sleep_forever()

        message = b"\x81\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + half
        before = resident(daemon)
        async with answering(daemon):
            for _ in range(50):
                nursery.start_soon(begin, body, half)
                nursery.start_soon(begin, upgrade, message)
            most = await most_resident(daemon)
            print(f"{(most - before) / MIB:.0f} MiB")
            with trio.fail_after(60):
                long = await told(daemon, waiting(1, padding=1_000_000, state="started"))
        assert "result" in long, "who holds a place and does not go on gives it up"
        assert most - before < GROWTH
        # They are told one after the other
        await until(lambda: {b"HTTP/1.1 503 ", b"\x88"} <= {end[: 1 if end[:1] == b"\x88" else 13] for end in ends})
        assert any(end[2:4] == (1013).to_bytes(2, "big") for end in ends if end[:1] == b"\x88")
        nursery.cancel_scope.cancel()
