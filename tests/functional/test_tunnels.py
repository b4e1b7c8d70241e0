"""Tunnels between two daemons: programs on both sides know of nothing but their sockets."""

from __future__ import annotations

import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from fabstir_client.api.errors import Forbidden, InvalidParams, InvalidState, ListenFailed
from tests.functional.local_streams import WAIT, local
from tests.functional.local_tunnels import cut_at_once, echo, exactly, through, tunnel
from tests.harness import asked_until, environment, fabstird, pair
from tests.support.minipeer import mini_peer
from tests.support.ports import free_port
from tests.support.yamux import StreamReset

SSH = "/ssh/1.0.0"
GATED = 0x1008  # libp2p's error code for who may not


async def test_a_program_talks_to_one_on_another_machine() -> None:
    async with pair() as (near, far), echo(b"ready ") as target:
        made = await far.call("tunnel.listen", protocol=SSH, target=target, peers=[near.peer_id])
        assert (made["kind"], made["target"], made["keep"]) == ("listen", target, False)
        assert (made["peers"], made["open"], made["total"]) == ([near.peer_id], 0, 0)
        for listen in ("127.0.0.1:0", f"unix:{near.path}.tunnel"):
            forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=listen)
            async with await through(forward["listen"]) as stream:
                await stream.send_all(b"hello")
                assert await exactly(stream, 11) == b"ready hello"
                assert (await tunnel(far, made["tunnelId"]))["open"] == 1
                await stream.send_eof()
                assert await stream.receive_some() == b""
            done = await asked_until(lambda one=forward: tunnel(near, one["tunnelId"]), lambda one: not one["open"])
            assert (done["total"], done["bytesOut"], done["bytesIn"]) == (1, 5, 11)
            assert done["peerId"] == far.peer_id
            assert "lastError" not in done
        explained = await near.call("peer.explain", target=far.peer_id)
        assert forward["tunnelId"] in explained["tunnels"]
        assert near.path.with_name("api.sock.tunnel").stat().st_mode & 0o777 == 0o600


async def test_a_close_ends_what_is_open_and_frees_the_port() -> None:
    async with pair() as (near, far), echo() as target:
        made = await far.call("tunnel.listen", protocol=SSH, target=target)
        own = f"127.0.0.1:{free_port()}"  # which the kernel gives nobody once it is free
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=own)
        with pytest.raises(ListenFailed, match="another program has it") as caught:
            await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=forward["listen"])
        assert caught.value.data["address"] == forward["listen"]
        async with await through(forward["listen"]) as stream:
            await stream.send_all(b"x")
            await exactly(stream, 1)
            assert await near.call("tunnel.close", tunnelId=forward["tunnelId"]) == {
                "tunnelId": forward["tunnelId"],
                "closed": 1,
            }
            assert await cut_at_once(stream)
        assert await near.call("tunnel.list") == []
        with pytest.raises(OSError, match=r"."):
            await through(forward["listen"])
        with pytest.raises(InvalidState, match="no tunnel"):
            await near.call("tunnel.close", tunnelId=forward["tunnelId"])
        again = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=forward["listen"])
        async with await through(again["listen"]) as stream:
            await stream.send_all(b"x")
            await exactly(stream, 1)
            assert (await far.call("tunnel.close", tunnelId=made["tunnelId"]))["closed"] == 1
            assert await cut_at_once(stream)
        assert SSH not in (await far.call("version"))["protocols"]


async def test_what_fails_is_closed_at_once_and_the_list_says_why() -> None:
    async with pair() as (near, far):
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen="127.0.0.1:0")
        async with await through(forward["listen"]) as stream:
            assert await cut_at_once(stream)
        told = await asked_until(lambda: tunnel(near, forward["tunnelId"]), lambda one: "lastError" in one)
        assert "does not speak" in told["lastError"]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            dead = f"127.0.0.1:{closed.getsockname()[1]}"
            made = await far.call("tunnel.listen", protocol=SSH, target=dead)
            async with await through(forward["listen"]) as stream:
                assert await cut_at_once(stream)
            told = await asked_until(lambda: tunnel(far, made["tunnelId"]), lambda one: "lastError" in one)
            assert told["lastError"] == f"{dead}: Connection refused"
        await near.call("disconnect", peerId=far.peer_id)
        await far.call("stop")

        async def away() -> bool:
            try:
                async with await through(forward["listen"]) as stream:
                    return await cut_at_once(stream)
            except OSError:
                return True  # so soon that connecting saw it

        assert await away()
        await asked_until(lambda: tunnel(near, forward["tunnelId"]), lambda one: "cannot connect" in one["lastError"])
        assert await away()
        await near.call("stop")
        assert await away()


async def test_a_forward_keeps_trying_until_its_peer_is_back() -> None:
    own = {"node.listen_addresses": [f"/ip4/127.0.0.1/tcp/{free_port()}"]}  # which nobody gets while it is stopped
    async with pair(own) as (near, far), echo() as target:
        address = far.address("tcp").partition("/p2p/")[0]
        await far.call("tunnel.listen", protocol=SSH, target=target)
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen="127.0.0.1:0")
        await far.call("stop")
        await asked_until(lambda: tunnel(near, forward["tunnelId"]), lambda one: "lastError" in one)
        await far.call("start", config={"listenAddresses": [address]})
        await asked_until(lambda: tunnel(near, forward["tunnelId"]), lambda one: "lastError" not in one, within=60)
        async with await through(forward["listen"]) as stream:
            await stream.send_all(b"back")
            assert await exactly(stream, 4) == b"back"


async def test_who_may_not_is_told_so() -> None:
    async with pair() as (near, far), echo() as target, mini_peer() as stranger:
        await far.call("tunnel.listen", protocol=SSH, target=target, peers=[near.peer_id])
        conn = await stranger.dial(far.address("tcp"))
        with pytest.raises(StreamReset) as caught:
            await conn.open_stream(SSH)
        assert caught.value.code == GATED
        await near.call("tunnel.listen", protocol=SSH, target=target, peers=[])
        async with local(far.path) as here:
            refused = await here.error("stream.open", {"peerId": near.peer_id, "protocol": SSH})
            assert (refused["code"], refused["reason"]) == ("STREAM_FAILED", "refused")


async def test_targets_and_listeners_are_of_this_machine_unless_more_is_allowed() -> None:
    async with fabstird(settings={"tunnels.allow": ["192.0.2.0/24:22"]}) as daemon:
        peer_id = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
        for target in ("192.0.2.7:23", "198.51.100.1:22", "example.com:22"):
            with pytest.raises(Forbidden, match="tunnels"):
                await daemon.call("tunnel.listen", protocol=SSH, target=target)
            with pytest.raises(Forbidden):
                await daemon.call("tunnel.forward", peerId=peer_id, protocol=SSH, listen=target)
        with pytest.raises(Forbidden):
            await daemon.call("tunnel.forward", peerId=peer_id, protocol=SSH, listen="0.0.0.0:0")
        await daemon.call("tunnel.listen", protocol=SSH, target="192.0.2.7:22")
        with pytest.raises(InvalidState, match="handles"):
            await daemon.call("tunnel.listen", protocol=SSH, target="127.0.0.1:22")
        for wrong in (
            {"target": "22"},
            {"target": "127.0.0.1:22", "peers": ["me"]},
            {"protocol": "ssh", "target": "127.0.0.1:1"},
        ):
            with pytest.raises(InvalidParams):
                await daemon.call("tunnel.listen", **{"protocol": "/other/1", **wrong})
        assert len(await daemon.call("tunnel.list")) == 1


async def test_peers_do_not_reach_the_daemons_own_api_through_a_tunnel() -> None:
    async with pair() as (near, far):
        made = await far.call("tunnel.listen", protocol=SSH, target=f"unix:{far.path}")
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen="127.0.0.1:0")
        async with await through(forward["listen"]) as stream:
            assert await cut_at_once(stream)
        told = await asked_until(lambda: tunnel(far, made["tunnelId"]), lambda one: "lastError" in one)
        assert "own API" in told["lastError"]


async def test_the_target_is_told_first_who_it_is() -> None:
    async with pair() as (near, far), echo() as target:
        await far.call("tunnel.listen", protocol=SSH, target=target, proxyProtocol=True)
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol=SSH, listen="127.0.0.1:0")
        async with await through(forward["listen"]) as stream:
            await stream.send_all(b"hello")
            told = await exactly(stream, 16 + 12 + 55 + 5)
        assert told[:16] == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x43"
        assert told[16:20] == b"\x7f\0\0\x01"
        assert told[28:31] == b"\xe0\0\x34"
        assert told[31:83].decode() == near.peer_id
        assert told[83:] == b"hello"


async def test_what_is_kept_is_there_after_a_kill_with_its_id_and_its_port() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        async with fabstird() as far, echo() as target:
            await far.call("tunnel.listen", protocol=SSH, target=target)
            async with fabstird(Path(folder)) as near:
                await near.call("connect", address=far.address("tcp"))
                await asked_until(lambda: near.peer(far.peer_id), lambda peer: peer and "agentVersion" in peer)
                await near.call("stop")  # known peers are written down
                await near.call("start")
                kept = await near.call(
                    "tunnel.forward", peerId=far.peer_id, protocol=SSH, listen="127.0.0.1:0", keep=True
                )
                # One whose port the kernel gives to nobody else meanwhile: through it goes what is said
                usable = await near.call(
                    "tunnel.forward", peerId=far.peer_id, protocol=SSH, listen=f"127.0.0.1:{free_port()}", keep=True
                )
                own = await near.call("tunnel.listen", protocol=SSH, target=target, peers=[far.peer_id], keep=True)
                await near.call("tunnel.listen", protocol="/not-kept/1", target=target)
                near.process.kill()
                await near.process.wait()
            async with fabstird(Path(folder)) as near:
                found = {one["tunnelId"]: one for one in await near.call("tunnel.list")}
                assert set(found) == {kept["tunnelId"], usable["tunnelId"], own["tunnelId"]}
                assert found[kept["tunnelId"]]["listen"] == kept["listen"]
                assert found[own["tunnelId"]]["peers"] == [far.peer_id]
                assert SSH in (await near.call("version"))["protocols"]

                async def works() -> bool:
                    try:
                        async with await through(usable["listen"]) as stream:
                            await stream.send_all(b"x")
                            return not await cut_at_once(stream)
                    except (OSError, trio.BrokenResourceError):
                        return False  # so soon that connecting, or sending, saw it

                await asked_until(works, bool, within=60)
                for one in (kept, usable):
                    await near.call("tunnel.close", tunnelId=one["tunnelId"])
            async with fabstird(Path(folder)) as near:
                assert [one["tunnelId"] for one in await near.call("tunnel.list")] == [own["tunnelId"]]


@contextmanager
def web() -> Iterator[str]:
    """A web server, of the standard library."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: object) -> None:
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_the_command_line_makes_lists_and_closes_them() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder, web() as target:
        async with fabstird(Path(folder)) as near, fabstird() as far:
            await near.call("connect", address=far.address("tcp"))

            async def fabstir(*words: str, check: bool = True) -> str:
                command = [sys.executable, "-m", "fabstir_client", "--data-dir", folder, *words]
                done = await trio.run_process(command, capture_stdout=True, env=environment(), check=check)
                return done.stdout.decode()

            await far.call("tunnel.listen", protocol="/http/1.1", target=target)
            made = await fabstir("tunnel", "forward", far.peer_id, "/http/1.1", "127.0.0.1:0")
            (forward,) = await near.call("tunnel.list")
            assert f"wanted by tunnels  {forward['tunnelId']}" in await fabstir("explain", far.peer_id)
            assert forward["listen"] in made
            assert forward["keep"], "it is the default of the command line"
            async with await through(forward["listen"]) as stream:
                for _ in range(2):
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b"hello"):
                        answer += await exactly(stream, 1)
                    assert answer.startswith(b"HTTP/1.1 200")
            table = await fabstir("tunnel", "list")
            assert forward["tunnelId"] in table
            assert forward["listen"] in table
            assert await fabstir("tunnel", "list", "--ids") == f"{forward['tunnelId']}\n"
            assert forward["tunnelId"] in await fabstir("tunnel", "close", forward["tunnelId"])
            assert await near.call("tunnel.list") == []
            words = ("tunnel", "listen", "/http/1.1", target, "--peer", far.peer_id, "--foreground")
            command = [sys.executable, "-m", "fabstir_client", "--data-dir", folder, *words]
            process = await trio.lowlevel.open_process(command, env=environment())
            (own,) = await asked_until(lambda: near.call("tunnel.list"), bool)
            assert (own["keep"], own["peers"]) == (False, [far.peer_id])
            assert own["lease"] == "connection"
            process.terminate()
            await process.wait()
            await asked_until(lambda: near.call("tunnel.list"), lambda found: not found)
            process = await trio.lowlevel.open_process(command, env=environment())
            await asked_until(lambda: near.call("tunnel.list"), bool)
            process.kill()
            await process.wait()
            await asked_until(lambda: near.call("tunnel.list"), lambda found: not found)


async def test_a_lease_needs_a_connection_and_is_not_kept() -> None:
    async with pair() as (near, far), echo() as target:
        wanted = {"protocol": SSH, "target": target, "lease": "connection"}
        with pytest.raises(InvalidParams, match="lease: cannot be combined with keep"):
            await near.call("tunnel.listen", **wanted, keep=True)
        async with local(near.path) as caller:
            made = await caller.call("tunnel.listen", wanted)
            forward = {"peerId": far.peer_id, "protocol": SSH, "listen": "127.0.0.1:0", "lease": "connection"}
            await caller.call("tunnel.forward", forward)
            await near.call("tunnel.listen", protocol="/stays/1", target=target)
            assert len(await near.call("tunnel.list")) == 3
            assert (await near.call("tunnel.close", tunnelId=made["tunnelId"]))["closed"] == 0
        left = await asked_until(lambda: near.call("tunnel.list"), lambda found: len(found) == 1)
        assert left[0]["protocol"] == "/stays/1"


# --------------------------------------------------------------------------------------------------------------------
# Programs that know of nothing


@asynccontextmanager
async def tunnelled(target: str) -> AsyncIterator[str]:
    """A port at one daemon that leads to a program at another."""
    async with pair() as (near, far):
        await far.call("tunnel.listen", protocol="/any/1", target=target)
        forward = await near.call("tunnel.forward", peerId=far.peer_id, protocol="/any/1", listen="127.0.0.1:0")
        yield forward["listen"]


async def test_http_goes_through() -> None:
    with web() as target:
        async with tunnelled(target) as listen:

            def fetch() -> list[bytes]:
                host, _, port = listen.rpartition(":")
                connection = http.client.HTTPConnection(host, int(port), timeout=WAIT)
                answers = []
                for _ in range(3):  # on one connection
                    connection.request("GET", "/")
                    answers.append(connection.getresponse().read())
                connection.close()
                return answers

            assert await trio.to_thread.run_sync(fetch) == [b"hello"] * 3


async def test_a_websocket_goes_through() -> None:
    def answer(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            async with tunnelled(f"127.0.0.1:{server.socket.getsockname()[1]}") as listen:

                def talk() -> list[str | bytes]:
                    with connect(f"ws://{listen}/", compression=None, proxy=None) as connection:
                        for message in ("a text", bytes(100_000)):
                            connection.send(message)
                        return [connection.recv(WAIT) for _ in range(2)]

                assert await trio.to_thread.run_sync(talk) == ["a text", bytes(100_000)]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def sshd(folder: Path) -> Iterator[str]:
    """OpenSSH's server, as this user, with keys of its own; what it needs lies in the folder."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("ssh through a tunnel: this machine has no sshd (on Debian: apt-get install openssh-server)")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "allowed").write_bytes((folder / "user.pub").read_bytes())
    port = free_port()
    options = {
        "AuthorizedKeysFile": folder / "allowed",
        "HostKey": folder / "host",
        "ListenAddress": f"127.0.0.1:{port}",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
    }
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it shuts in who has not logged in
    given = [f"-o{name}={value}" for name, value in options.items()]
    with subprocess.Popen([program, "-D", "-e", "-f", "/dev/null", *given], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if b"Server listening" in line:
                    break
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


async def test_ssh_goes_through() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder, sshd(Path(folder)) as target:
        async with tunnelled(target) as listen:
            host, _, port = listen.rpartition(":")
            quiet = ("-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
            command = ["ssh", "-F", "none", "-i", f"{folder}/user", "-p", port, *quiet, host, "cat; echo done"]
            with trio.fail_after(WAIT):
                done = await trio.run_process(command, stdin=bytes(100_000), capture_stdout=True, capture_stderr=True)
            assert done.stdout == bytes(100_000) + b"done\n"
