"""`fabstir pipe`: standard input and output, joined to a stream."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.functional.local_streams import WAIT
from tests.harness import Daemon, asked_until, environment, pair

ECHO = "/echo/1.0.0"
MIB = 1024 * 1024


@asynccontextmanager
async def pipe(daemon: Daemon, *words: str) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", "pipe", *words]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = await trio.lowlevel.open_process(command, env=environment(), **streams)  # type: ignore[arg-type]
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def handled(daemon: Daemon) -> None:
    await asked_until(lambda: daemon.call("version"), lambda version: ECHO in version["protocols"])


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    with trio.fail_after(WAIT):
        return b"".join([part async for part in stream])


async def test_what_one_reads_the_other_writes_both_ways() -> None:
    data = os.urandom(5 * MIB)
    async with pair() as (opening, taking), pipe(taking, "--listen", ECHO) as there:
        await handled(taking)
        async with pipe(opening, taking.peer_id, ECHO) as here, trio.open_nursery() as nursery:
            assert here.stdin is not None
            assert there.stdin is not None
            assert here.stdout is not None
            assert there.stdout is not None

            async def send(stdin: trio.abc.SendStream, what: bytes) -> None:
                async with stdin:
                    await stdin.send_all(what)

            nursery.start_soon(send, here.stdin, data)
            nursery.start_soon(send, there.stdin, b"an answer")
            assert hashlib.sha256(await all_of(there.stdout)).digest() == hashlib.sha256(data).digest()
            assert await all_of(here.stdout) == b"an answer"
            with trio.fail_after(WAIT):
                assert await here.wait() == 0
                assert await there.wait() == 0, "it takes one"


async def test_a_reset_is_a_failure_and_with_keep_the_next_one_is_taken() -> None:
    async with pair() as (opening, taking), pipe(taking, "--listen", ECHO, "--keep") as there:
        await handled(taking)
        assert there.stdout is not None
        async with pipe(opening, taking.peer_id, ECHO) as here:
            assert here.stderr is not None
            # Before it is open at both ends, the reset might overtake the answer to who opens it
            for end in (opening, taking):
                (entry,) = await asked_until(
                    lambda end=end: end.call("stream.list"),
                    lambda found: [one for one in found if one["state"] == "open"],
                )
            await taking.call("stream.reset", streamId=entry["streamId"])
            with trio.fail_after(WAIT):
                assert await here.wait() == 1
            assert b"peer_reset" in await all_of(here.stderr)
        async with pipe(opening, taking.peer_id, ECHO) as here:
            assert here.stdin is not None
            await here.stdin.send_all(b"again")
            with trio.fail_after(WAIT):
                assert await there.stdout.receive_some() == b"again"


async def test_what_cannot_be_had_says_why() -> None:
    async with pair() as (opening, taking):
        for words, status, said in (
            ((taking.peer_id, "/none/1"), 1, b"does not speak /none/1"),
            ((taking.peer_id,), 2, b"needs PEER and PROTOCOL"),
            (("--keep", taking.peer_id, ECHO), 2, b"--listen"),
            ((taking.peer_id, "--listen", ECHO), 2, b"or --listen"),
        ):
            async with pipe(opening, *words) as here:
                assert here.stderr is not None
                with trio.fail_after(WAIT):
                    assert await here.wait() == status
                assert said in await all_of(here.stderr)
