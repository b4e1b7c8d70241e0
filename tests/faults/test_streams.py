"""Streams and tunnels when the daemon, the peer or the client dies, freezes or stops, and when the cable is cut."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.faults.cable import cable
from tests.faults.test_peer_dies import frozen
from tests.functional.local_streams import WAIT, Local, opened, outcome
from tests.functional.local_tunnels import cut_at_once, echo, exactly, through, tunnel
from tests.harness import Daemon, Json, asked_until, environment, fabstird, pair
from tests.support.ports import free_port

TOKENS, SSH = "/tokens/1.0.0", "/ssh/1.0.0"
LIVENESS: Json = {"connections.ping_interval": 500, "connections.ping_timeout": 3000}
QUICK: Json = {"dial_timeout": 1000}
CLIENT = """
import sys, fabstir_client
path, peer, protocol = sys.argv[1:]
with fabstir_client.connect_sync(api=f"ipc:{path}") as client, client.open_stream(peer, protocol) as stream:
    for data in stream:
        print("got some", flush=True)
"""


@dataclass
class Carried:
    """A stream and a connection through a tunnel between two daemons, both in use."""

    near: Daemon
    far: Daemon
    here: Local
    there: Local
    caller: trio.SocketStream
    forward: Json
    made: Json

    async def work(self) -> None:
        for one, other in ((self.here, self.there), (self.there, self.here)):
            await one.send(b"still here")
            assert await other.exactly(10) == b"still here"
        await self.caller.send_all(b"here too")
        assert await exactly(self.caller, 8) == b"here too"

    async def end(self, *ends: str) -> None:
        """The programs at these ends see it."""
        if "near" in ends:
            assert await self.here.rest() == b""
            assert await cut_at_once(self.caller)
        if "far" in ends:
            assert await self.there.rest() == b""

    async def told(self, *, near: str | None = None, far: str | None = None) -> None:
        """How the streams ended, as the daemons say."""
        if near:
            assert await outcome(self.near, self.here.id) == near
            assert (await asked_until(lambda: tunnel(self.near, self.forward["tunnelId"]), _unused))["total"] == 1
        if far:
            assert await outcome(self.far, self.there.id) == far
            assert (await self.far.wait_event("stream.closed", streamId=self.there.id))["outcome"] == far
            await asked_until(lambda: tunnel(self.far, self.made["tunnelId"]), _unused)

    async def works_again(self) -> None:
        async def works() -> bool:
            try:
                async with await through(self.forward["listen"]) as stream:
                    await stream.send_all(b"back")
                    await exactly(stream, 4)
                    return True
            except (AssertionError, trio.BrokenResourceError):
                return False  # closed at once: it is not back yet

        await asked_until(works, bool, within=2 * WAIT)


def _unused(found: Json) -> bool:
    return found["open"] == 0


@asynccontextmanager
async def carried(near: Daemon, far: Daemon) -> AsyncIterator[Carried]:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(echo(path=f"{far.path}.target"))
        made = await far.call("tunnel.listen", protocol=SSH, target=target)
        listen = f"unix:{near.path}.tunnel"
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=listen)
        await far.call("protocol.handle", protocol=TOKENS, mode="stream")
        here, there = await stack.enter_async_context(opened(near, far, TOKENS))
        caller = await stack.enter_async_context(await through(listen))
        both = Carried(near, far, here, there, caller, forward, made)
        await both.work()
        yield both


async def test_a_killed_peer() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        listen = [f"/ip4/127.0.0.1/tcp/{free_port()}"]  # while nobody listens there, nobody is given it
        async with fabstird() as near:
            async with fabstird(Path(folder), listen_addresses=listen) as far:
                await near.call("connect", address=far.address("tcp"))
                await far.wait_event("peer:connect", peerId=near.peer_id)
                async with carried(near, far) as both:
                    far.process.kill()
                    await far.process.wait()
                    await both.end("near", "far")
                    await both.told(near="peer_gone")
                    failed = await asked_until(
                        lambda: tunnel(near, both.forward["tunnelId"]), lambda found: "lastError" in found
                    )
                    assert far.peer_id in failed["lastError"]
            async with fabstird(Path(folder), listen_addresses=listen) as again, echo() as target:
                await again.call("tunnel.listen", protocol=SSH, target=target)
                await both.works_again()


async def test_a_killed_daemon() -> None:
    async with pair() as (near, far), carried(near, far) as both:
        near.process.kill()
        await near.process.wait()
        await both.end("near", "far")
        await both.told(far="peer_gone")
        await asked_until(
            lambda: far.call("metrics"), lambda told: told["bounds"]["streams"]["current"] == 0, within=WAIT
        )


async def test_a_killed_client_is_a_reset_at_the_peer() -> None:
    async with pair() as (near, far):
        await far.call("protocol.handle", protocol=TOKENS, mode="stream")
        command = [sys.executable, "-c", CLIENT, str(near.path), far.peer_id, TOKENS]
        client = await trio.lowlevel.open_process(command, stdout=-1, env=environment())
        assert client.stdout is not None
        told = await far.wait_event("stream.incoming", timeout=WAIT)
        async with await trio.open_unix_socket(str(far.path)) as socket, trio.open_nursery() as nursery:
            server = Local(socket)
            await server.call("stream.accept", {"streamId": told["streamId"]})

            async def answer() -> None:
                try:
                    while True:
                        await server.send(b"token")
                        await trio.sleep(0.002)
                except trio.BrokenResourceError:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(answer)
            with trio.fail_after(WAIT):
                await client.stdout.receive_some()
                os.kill(client.pid, signal.SIGKILL)
                killed = trio.current_time()
                await trio.sleep_forever()
        print(f"the peer's program saw it after {1000 * (trio.current_time() - killed):.1f} ms")
        assert (await far.wait_event("stream.closed", streamId=told["streamId"]))["outcome"] == "peer_reset"
        await client.stdout.aclose()
        await client.wait()
        (record,) = await near.call("stream.list")
        assert await outcome(near, record["streamId"]) == "reset"  # the peer may hear of it first


async def test_a_frozen_peer() -> None:
    async with fabstird(settings=LIVENESS) as far, fabstird(settings=LIVENESS, **QUICK) as near:
        await near.call("connect", address=far.address("tcp"))
        await far.wait_event("peer:connect", peerId=near.peer_id)
        async with carried(near, far) as both:
            with frozen(far.process.pid):
                await both.end("near")
                await both.told(near="peer_gone")
                await asked_until(
                    lambda: tunnel(near, both.forward["tunnelId"]), lambda found: "lastError" in found, within=WAIT
                )
                began = trio.current_time()
                async with await through(both.forward["listen"]) as stream:
                    assert await cut_at_once(stream)
                print(f"who connects meanwhile is closed after {1000 * (trio.current_time() - began):.0f} ms")
            await both.end("far")
            await both.told(far="peer_gone")
            await both.works_again()


@pytest.mark.usefixtures("root")
async def test_a_cut_cable() -> None:
    with cable() as wire:

        def machine(run: Sequence[str], address: str) -> Json:
            return {"prefix": run, "listen_addresses": [f"/ip4/{address}/tcp/0"]}

        async with (
            fabstird(settings=LIVENESS, **machine(wire.other.run, wire.other.address)) as far,
            fabstird(settings=LIVENESS, **machine(wire.one.run, wire.one.address), **QUICK) as near,
        ):
            await near.call("connect", address=far.address("tcp"))
            await far.wait_event("peer:connect", peerId=near.peer_id)
            async with carried(near, far) as both:
                wire.swallow()
                await both.end("near", "far")
                await both.told(near="peer_gone", far="peer_gone")
                wire.deliver()
                await both.works_again()


async def test_a_node_that_is_stopped_and_started() -> None:
    address = f"/ip4/127.0.0.1/tcp/{free_port()}"  # while nobody listens there, nobody is given it
    async with pair({"node.listen_addresses": [address]}) as (near, far), carried(near, far) as both:
        await far.call("stop")
        await both.end("near", "far")
        await both.told(near="peer_gone", far="stopped")
        await far.call("start", config={"listenAddresses": [address]})
        await both.works_again()
        await near.call("stop")
        async with await through(both.forward["listen"]) as stream:
            assert await cut_at_once(stream)
        await near.call("start")
        await both.works_again()
