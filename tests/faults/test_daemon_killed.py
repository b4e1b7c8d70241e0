"""The daemon itself, killed at any moment, 50 times in a row over one data directory."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import FabstirError
from tests.faults.chance import seed
from tests.harness import Daemon, Json, command, environment, fabstird, until
from tests.support.minipeer import MiniPeer, mini_peers

KILLS = 50  # while it is busy; one start in three is killed half-way besides
BUSY = 0.5  # seconds, at most, from ready to killed
HALF_WAY = 1.2  # seconds, at most, from exec to killed
FILES = {"identity.key", "api.token", "peers.json", "ports.json", "api.json", "lock", "api.sock", "api.sock.lock"}
SETTINGS: Json = {"connections.max_per_ip": 200}
NODE: Json = {"max_retries": 1, "retry_delay": 50, "keepalive_interval": 500}


class Load:
    """Calls that never end: each change of what is kept or connected, and each way of asking, all at once."""

    def __init__(self, daemon: Daemon, chance: random.Random, visited: list[str], fickle: list[str]) -> None:
        self.daemon = daemon
        self.chance = chance
        self.visited = visited  # addresses that are connected and disconnected
        self.fickle = fickle  # addresses that are kept and forgotten
        self.answers = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for address in self.visited:
                nursery.start_soon(self._visit, address)
            for address in self.fickle:
                nursery.start_soon(self._waver, address)
            for method, params in (
                ("status", {}),
                ("peers", {}),
                ("metrics", {}),
                ("events", {"after": 0, "limit": 50}),
            ):
                nursery.start_soon(self._ask, method, params)

    def is_felt(self) -> bool:
        return self.answers > 0

    async def _call(self, method: str, **params: object) -> None:
        with suppress(FabstirError):  # a dial that another call has cut off, a peer that has just left
            await self.daemon.call(method, **params)
        self.answers += 1

    async def _visit(self, address: str) -> None:
        while True:
            await self._call("connect", address=address)
            await self._call("disconnect", peerId=address.rpartition("/")[2])

    async def _waver(self, address: str) -> None:
        while True:
            await self._call(self.chance.choice(("peer.keep", "peer.forget")), address=address)

    async def _ask(self, method: str, params: Json) -> None:
        while True:
            await self._call(method, **params)
            await trio.sleep(0.01)  # leaves the others a turn


async def killed_half_way(data_dir: Path, seconds: float) -> None:
    """A start that is cut off."""
    process = await trio.lowlevel.open_process(
        command(data_dir, SETTINGS, **NODE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    with trio.move_on_after(seconds):
        status = await process.wait()
        pytest.fail(f"it ended by itself with status {status}")
    process.kill()
    await process.wait()


def look(data_dir: Path) -> list[str]:
    """What a killed daemon leaves is whole; returns the kept addresses."""
    if not (path := data_dir / "peers.json").exists():
        return []
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        pytest.fail(f"peers.json is not whole: {error}: {path.read_bytes()[:300]!r}")
    return list(content["kept"])


def unknown(data_dir: Path) -> set[str]:
    """Files that are being written, or were when their daemon was killed."""
    return {path.name for path in data_dir.iterdir()} - FILES if data_dir.exists() else set()


async def listening(peers: list[MiniPeer]) -> list[str]:
    return [await peer.listen() for peer in peers]


async def test_fifty_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(seed())
    data_dir = tmp_path / "d"
    peer_id = token = ""
    async with mini_peers(4) as friends, mini_peers(4) as hosts, mini_peers(3) as others, mini_peers(KILLS) as guests:
        kept, visited, fickle = await listening(friends), await listening(hosts), await listening(others)
        must_keep: set[str] = set()
        for number, guest in enumerate(guests):
            if number % 3 == 2:
                await killed_half_way(data_dir, chance.uniform(0, HALF_WAY))
                assert must_keep <= set(look(data_dir))
            half_done = unknown(data_dir)
            async with fabstird(data_dir, SETTINGS, **NODE) as daemon:
                assert daemon.peer_id == (peer_id or daemon.peer_id)
                assert (data_dir / "api.token").read_text() == (token or (data_dir / "api.token").read_text())
                peer_id, token = daemon.peer_id, (data_dir / "api.token").read_text()
                assert not half_done & unknown(data_dir), "what an earlier run left half-done is gone"
                for address in must_keep:
                    await daemon.wait_event("peer:connect", peerId=address.rpartition("/")[2])
                if not number:
                    for address in kept:
                        await daemon.call("peer.keep", address=address)
                        must_keep.add(address)
                # The guest of the last round leaves, and one more comes; both are facts once they are answered
                for address in must_keep - set(kept):
                    await daemon.call("peer.forget", address=address)
                    must_keep.discard(address)

                load = Load(daemon, chance, visited, fickle)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(load.run)
                    address = await guest.listen()
                    await daemon.call("peer.keep", address=address)
                    must_keep.add(address)
                    await until(load.is_felt)
                    await trio.sleep(chance.uniform(0, BUSY))
                    daemon.process.kill()
                    nursery.cancel_scope.cancel()
                await daemon.process.wait()
                assert daemon.warnings() == [], daemon.last_words()
            found = set(look(data_dir))
            assert must_keep <= found, f"round {number}: lost {must_keep - found}"
            assert found <= must_keep | set(fickle), f"round {number}: not forgotten: {found - must_keep}"

        async with fabstird(data_dir, SETTINGS, **NODE) as daemon:
            assert daemon.peer_id == peer_id
            for address in must_keep:
                await daemon.wait_event("peer:connect", peerId=address.rpartition("/")[2])
        left = {path.name for path in data_dir.iterdir()}
        assert left == FILES - {"api.json", "api.sock"}, "a stop in order takes its socket along"


async def test_a_killed_daemon_blocks_no_place(tmp_path: Path) -> None:
    """Its socket file is there and dead; its lock went with it; its successor has everything at once."""
    data_dir = tmp_path / "d"
    async with fabstird(data_dir) as daemon:
        daemon.process.kill()
        await daemon.process.wait()
    dead = data_dir / "api.sock"
    assert dead.is_socket()
    with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
        caller.connect(str(dead))
    async with fabstird(data_dir) as daemon:
        about = json.loads((data_dir / "api.json").read_bytes())
        assert about["pid"] == daemon.process.pid
        assert about["epoch"] == daemon.status["epoch"]
        (data_dir / ".peers.json.left-half-done").write_bytes(b'{"version":')
        daemon.process.kill()
        await daemon.process.wait()
    async with fabstird(data_dir) as daemon:
        await until(lambda: (data_dir / "api.json").exists())
        assert not (data_dir / ".peers.json.left-half-done").exists()
        await until(lambda: not unknown(data_dir))
