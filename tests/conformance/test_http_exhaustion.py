"""Connections that cost the HTTP endpoint something while they send little, and clients that do not read."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.conformance.test_http_attacks import JSON, received, statuses
from tests.harness import ANSWER, Process, daemon, fetch, ipc, post, process, ws


@pytest.fixture(scope="module")
def impatient() -> Iterator[Process]:
    """A daemon whose patience a test can wait for."""
    settings = {
        "api.header_timeout": 300,
        "api.body_timeout": 300,
        "api.idle_timeout": 2000,
        "api.max_http_connections": 100,
        "node.auto_start": False,
        "log.level": "warning",
    }
    with process(settings) as running:
        trio.run(running.ready)
        yield running
        trio.run(running.stop)


SLOW = {
    "nothing at all": ("", [[]]),
    "half a request line": ("GET /hea", [[408]]),
    "half a head": ("GET /healthz HTTP/1.1\r\nhost: local", [[408]]),
    "half a body": (
        f"POST /rpc HTTP/1.1\r\nhost: localhost\r\n{{token}}{JSON}content-length: 100\r\n\r\n{{{{",
        [[408]],
    ),
    "a chunked body": (
        f"POST /rpc HTTP/1.1\r\nhost: localhost\r\n{{token}}{JSON}transfer-encoding: chunked\r\n\r\n1\r\n{{{{\r\n",
        [[408]],
    ),
    "nothing after a request": ("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n", [[200]]),
}


@pytest.mark.parametrize(("sent", "expected"), SLOW.values(), ids=SLOW)
async def test_who_sends_too_slowly_is_cut_off(impatient: Process, sent: str, expected: list[list[int]]) -> None:
    data = sent.format(token=f"authorization: Bearer {impatient.token}\r\n").encode()
    assert statuses(await received(impatient, data)) in expected


async def test_a_head_that_drips_is_cut_off_all_the_same(impatient: Process) -> None:
    """Each byte in time, the whole of it never."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", impatient.port) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"x: y\r\n")
                    with trio.move_on_after(0.05):
                        answer = await stream.receive_some()
                        break
                assert statuses(answer) in ([408], [])


@pytest.mark.alone  # nobody beside it could do anything meanwhile
async def test_ten_thousand_idle_connections() -> None:
    """They take up the daemon's HTTP connections and nothing else: the others are turned away, IPC answers, and once
    they have been idle for long enough, HTTP does too."""
    many = 10_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = many + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may have {hard} files; {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    settings = {"api.idle_timeout": 3000, "api.max_http_connections": 500, "node.auto_start": False}
    try:
        async with daemon(settings) as running, trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(200)

            async def idle(task_status: trio.TaskStatus[None]) -> None:
                sock = trio.socket.socket()  # `open_tcp_stream` looks for addresses, too, which takes ten times as long
                async with limiter:
                    try:
                        await sock.connect(("127.0.0.1", running.port))
                    except OSError:
                        sock.close()
                        task_status.started()
                        return
                task_status.started()
                async with trio.SocketStream(sock) as stream:
                    with contextlib.suppress(trio.BrokenResourceError):
                        async for _ in stream:
                            pass

            with trio.fail_after(400):
                for _ in range(many):
                    await nursery.start(idle)
                async with ipc(running) as connection:
                    began = time.monotonic()
                    bounds = (await connection.call("metrics"))["bounds"]
                    assert time.monotonic() - began < ANSWER
                    assert bounds["fileDescriptors"]["current"] < 1000
                while True:  # until there is room again
                    with contextlib.suppress(ValueError, IndexError, OSError):
                        if (await fetch(running, "GET", "/healthz")).status == 200:
                            break
                    await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.alone  # a stop is timed
async def test_readers_that_do_not_read_delay_no_stop() -> None:
    """Traps 1 to 3: WebSockets that ask for much and read nothing, and kept-alive requests, while the daemon stops."""
    async with (
        daemon({"node.auto_start": False, "log.level": "warning"}) as running,
        ws(running) as one,
        ws(running) as other,
        await trio.open_tcp_stream("127.0.0.1", running.port) as kept,
    ):
        for connection in (one, other):
            for number in range(60):
                await connection.send({"jsonrpc": "2.0", "id": number, "method": "rpc.discover"})
        await kept.send_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert statuses(await kept.receive_some()) == [200]
        await running.stop()
        assert await kept.receive_some() == b""


async def test_a_client_that_went_away_costs_no_cpu() -> None:
    """Trap 2: sending events to a WebSocket whose client has gone must not spin."""
    settings = {"events.heartbeat": 1, "node.auto_start": False, "log.level": "warning"}
    async with daemon(settings) as running:
        for _ in range(5):
            async with ws(running) as connection:
                await connection.call("subscribe")
                await connection.notification("heartbeat")
        reply = await post(running, {"jsonrpc": "2.0", "id": 1, "method": "status"})
        assert reply.status == 200
        for _ in range(20):  # in the first seconds it still imports; a process that spins never rests
            before = cpu(running)
            await trio.sleep(1)
            if cpu(running) - before < 0.5:
                return
        raise AssertionError("it uses a whole core with no client there")


def cpu(running: Process) -> float:
    """Seconds of CPU that the process has used (Linux)."""
    fields = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
