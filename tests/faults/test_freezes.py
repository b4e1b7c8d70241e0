"""Nothing that a stranger, a name server or a full pipe does keeps the daemon from answering, or from ending."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import DialFailed
from tests.faults.answering import answering, cpu
from tests.faults.conftest import SILENT
from tests.harness import asked_until, fabstird, until
from tests.support.keys import ECDSA, RSA, SECP256K1, FalseIdentity, KeyIdentity, rsa_key
from tests.support.minipeer import ConnectionLost, Identity, mini_peer

pytestmark = pytest.mark.alone  # how fast streams are taken, and how soon a ping is answered

HEADER, SYN, RST = struct.Struct(">BBHII"), 1, 8  # of yamux
PINGS = 600_000  # 7 MB: more than the sockets on the way hold


async def test_names_that_are_never_resolved_keep_nothing_else_waiting(silent_names: list[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((SILENT, 53))
        nodes = [f"/dns4/n{number}.test/tcp/4001/p2p/{Identity().peer_id}" for number in range(60)]
        async with (
            fabstird(prefix=silent_names, bootstrap_nodes=nodes, dial_timeout=600000) as daemon,
            answering(daemon),
        ):
            await until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/task")) >= 16)  # threads that ask for names
            with trio.fail_after(60):  # each of these waited for a thread
                await daemon.call("peer.bans")
                await daemon.call("peer.ban", target="192.0.2.1")
                await daemon.call("token.create", name="one", access="read")
                await daemon.call("stop")
                await daemon.call("start", config={"bootstrapNodes": []})


async def test_a_key_of_sixty_kilobytes_costs_nothing() -> None:
    """It took seven seconds to read, in the third message of a handshake or as a listener in the second."""
    async with fabstird() as daemon, mini_peer(identity=FalseIdentity(rsa_key(60000))) as attacker:
        trap = await attacker.listen()
        async with answering(daemon):
            for _ in range(5):
                with trio.fail_after(60), pytest.raises(ConnectionLost):
                    await attacker.dial(daemon.address("tcp"))
            with pytest.raises(DialFailed):
                await daemon.call("connect", address=trap)
        await asked_until(lambda: daemon.call("metrics"), lambda told: told["handshakesFailed"] == 5)


@pytest.mark.parametrize("kind", [RSA, SECP256K1, ECDSA], ids=["rsa", "secp256k1", "ecdsa"])
async def test_peers_with_keys_of_every_kind_are_met(kind: int) -> None:
    async with fabstird() as daemon, mini_peer(identity=KeyIdentity(kind)) as peer:
        link = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        assert await link.ping() < 20
        await link.aclose()
        await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
        await daemon.call("connect", address=await peer.listen())
        await daemon.wait_event("peer:connect", peerId=peer.peer_id, direction="outbound")


async def test_streams_that_are_opened_and_reset_do_not_take_the_machine() -> None:
    """300 kB a second of them took half a core, and none counted as open."""
    pair = HEADER.pack(0, 1, SYN, 0, 0)[:4], HEADER.pack(0, 1, RST, 0, 0)[:4]
    async with fabstird() as daemon, mini_peer() as attacker, mini_peer() as friend:
        link = await attacker.dial(daemon.address("tcp"))
        other = await friend.dial(daemon.address("tcp"))
        number = 1001

        async def flood() -> None:
            nonlocal number
            while True:
                frames = bytearray()
                for _ in range(2000):
                    frames += (
                        pair[0] + number.to_bytes(4, "big") + bytes(4) + pair[1] + number.to_bytes(4, "big") + bytes(4)
                    )
                    number += 2
                await link.inject(bytes(frames))

        began, ran = trio.current_time(), cpu(daemon)
        async with answering(daemon), trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.sleep_until(began + 6)  # by then the buffers in between are full
            full, since = number, trio.current_time()
            await trio.sleep_until(began + 11)
            nursery.cancel_scope.cancel()
        opened, took = (number - full) / 2, trio.current_time() - since
        assert opened / took < 4000, f"{opened / took:.0f} streams a second were taken"
        whole = trio.current_time() - began
        print(f"{opened / took:.0f} streams a second, {cpu(daemon) - ran:.1f} s of work in {whole:.1f} s")
        assert await other.ping() < 20


async def test_a_peer_that_reads_no_pongs_is_read_all_the_same() -> None:
    """The reader waited until each pong was written: two sides that both did stood still for ever."""
    pings = b"".join(HEADER.pack(0, 2, SYN, 0, number) for number in range(5000))
    async with fabstird() as daemon, mini_peer() as peer:
        link = await peer.dial(daemon.address("tcp"))
        await daemon.wait_event("peer:identify", peerId=peer.peer_id)
        link.freeze_reading()
        with trio.fail_after(60):
            for _ in range(PINGS // 5000):
                await link.inject(pings)
        link.thaw()
        assert await link.ping() < 30


@pytest.mark.parametrize("frame", [b"\x00\x80\0\0\0\0", b"\x8a\x80\0\0\0\0"], ids=["rests of a message", "pongs"])
async def test_tiny_frames_of_a_websocket_leave_others_their_turn(frame: bytes, tmp_path: Path) -> None:
    """11,000 of them in one read were taken in one go, and another connection's behind them."""
    async with fabstird(tmp_path, {"api.http": "127.0.0.1:0"}) as daemon:
        host, _, port = json.loads((tmp_path / "api.json").read_bytes())["http"].removeprefix("http://").rpartition(":")
        token = (tmp_path / "api.token").read_text().strip()
        head = (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}"
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
        )

        async def flood() -> None:
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(head.encode())
                assert b" 101 " in await stream.receive_some(1000)
                await stream.send_all(b"\x01\x80\0\0\0\0")  # a message begins
                while True:
                    await stream.send_all(frame * 11_000)

        async with answering(daemon), trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(flood)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
