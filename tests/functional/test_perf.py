"""`/perf/1.0.0`, and the command that measures by it."""

from __future__ import annotations

import json
import struct
import sys
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import pytest
import trio

from fabstir_client.api.errors import InvalidState
from tests.functional.local_streams import WAIT
from tests.harness import asked_until, environment, fabstird, pair
from tests.support.minipeer import mini_peer
from tests.support.yamux import StreamReset

PERF = "/perf/1.0.0"
ON = {"streams.perf": True}


async def fabstir(path: Path, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{path}", *words]
    with trio.fail_after(2 * WAIT):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=environment(), stdin=b""
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_the_command_measures_both_ways() -> None:
    async with pair(ON) as (measuring, measured):
        words = ("perf", measured.peer_id, "--upload", "3MiB", "--download", "2MB")
        status, said, _ = await fabstir(measuring.path, *words, "--json")
        assert status == 0
        result = json.loads(said)
        assert (result["upload"]["bytes"], result["download"]["bytes"]) == (3 * 2**20, 2 * 10**6)
        assert result["upload"]["seconds"] > 0
        status, said, _ = await fabstir(measuring.path, *words)
        assert "MiB/s" in said
        status, said, _ = await fabstir(measuring.path, "perf", measured.peer_id, "--upload", "0", "--download", "0")
        assert (status, said) == (0, "nothing to measure\n")
        for size in ("much", "999999999999GiB"):
            status, _, said = await fabstir(measuring.path, "perf", measured.peer_id, "--download", size)
            assert (status, "is not a size" in said, said.count("\n")) == (2, True, 1)
        status, _, said = await fabstir(measured.path, "perf", measuring.peer_id)
        assert (status, "does not speak /perf/1.0.0" in said) == (1, True), "it is off unless it is switched on"
        with pytest.raises(InvalidState, match="handles"):
            await measured.call("protocol.handle", protocol=PERF, mode="stream")


async def test_the_command_does_not_wait_for_more_than_it_has_asked_for() -> None:
    async with pair() as (measuring, endless), trio.open_nursery() as nursery:
        piping = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{endless.path}", "pipe", "--listen", PERF]
        command = ["/bin/sh", "-c", 'exec "$@" </dev/zero', "sh", *piping]
        nursery.start_soon(
            partial(trio.run_process, command, check=False, stdout=DEVNULL, stderr=DEVNULL, env=environment())
        )
        await asked_until(lambda: endless.call("version"), lambda version: PERF in version["protocols"])
        words = ("perf", endless.peer_id, "--upload", "1KiB", "--download", "1KiB")
        status, _, said = await fabstir(measuring.path, *words)
        assert (status, "sent more than 1024 bytes" in said) == (1, True), said
        nursery.cancel_scope.cancel()


async def test_a_peer_gets_as_much_as_it_asks_for_and_too_many_are_told_so() -> None:
    async with fabstird(settings=ON) as daemon, mini_peer() as peer:
        conn = await peer.dial(daemon.address("tcp"))
        stream = await conn.open_stream(PERF)
        await stream.send_all(struct.pack("!Q", 100_000)[:3])
        await stream.send_all(struct.pack("!Q", 100_000)[3:] + bytes(70_000))
        await stream.close()
        with trio.fail_after(WAIT):
            assert await stream.receive_all() == bytes(100_000)
        short = await conn.open_stream(PERF)
        await short.send_all(b"short")
        await short.close()
        with pytest.raises(StreamReset), trio.fail_after(WAIT):
            await short.receive_all()
        for _ in range(8):
            await (await conn.open_stream(PERF)).send_all(b"\0")
        with pytest.raises(StreamReset) as caught:
            await conn.open_stream(PERF)
        assert caught.value.code == 0x1002


async def test_who_loses_a_place_keeps_the_connection() -> None:
    """Its measurement was cancelled in the middle of a write, and the connection is of no use after that."""
    async with fabstird(settings=ON) as daemon, mini_peer() as slow, mini_peer() as other:
        conn = await slow.dial(daemon.address("tcp"))
        conn.crawl(10**9)  # for its small buffer: what the daemon sends stands soon
        held = [await conn.open_stream(PERF) for _ in range(8)]
        conn.freeze_reading()
        await held[-1].send_all(struct.pack("!Q", 10**7))
        await held[-1].close()
        await asked_until(lambda: daemon.call("peers"), lambda peers: peers[0]["bytesOut"] > 100_000, within=WAIT)
        stream = await (await other.dial(daemon.address("tcp"))).open_stream(PERF)
        await stream.send_all(struct.pack("!Q", 1000))
        await stream.close()
        with trio.fail_after(WAIT):
            assert await stream.receive_all() == bytes(1000)
            conn.thaw()
            with pytest.raises(StreamReset) as caught:
                await held[-1].receive_exactly(10**7)
            assert caught.value.code == 0x1002
            await conn.ping()
