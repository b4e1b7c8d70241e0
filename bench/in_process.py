"""Peers of other implementations that measure by themselves, in their own processes: the interop tests' peers."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.anchors import Running, running
from bench.stream_ends import call
from tests.interop import gopeer, jspeer, rustpeer

COMMANDS = {
    "go": lambda: [str(gopeer.ensure_built())],
    "js": lambda: [str(part) for part in jspeer.ensure_installed()],
    "rust": lambda: [str(rustpeer.ensure_built())],
}
SERVED = ["/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/fabstir-interop/echo/1.0.0", "/fabstir-interop/digest/1.0.0"]
TIMEOUT = 120_000  # ms

Json = dict[str, Any]


class Peer:
    """Asked one command at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests, self._lines = process.stdin, process.stdout
        self._numbers = itertools.count(1)
        about = self._until(lambda said: said.get("event") == "ready")
        self.peer_id, self.address = about["peerId"], about["addresses"][0]

    def ask(self, command: str, **arguments: Any) -> Json:
        number = next(self._numbers)
        line = json.dumps({"id": number, "cmd": command, "timeout": TIMEOUT, **arguments})
        self._requests.write(line.encode() + b"\n")
        self._requests.flush()
        said = self._until(lambda said: said.get("id") == number)
        if not said["ok"]:
            raise RuntimeError(f"{command}: {said['error']}")
        return dict(said["result"])

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return Running(self._process).cpu()

    def _until(self, wanted: Any) -> Json:
        while True:
            line = self._lines.readline()
            if not line:
                raise RuntimeError("the peer has ended")
            said: Json = json.loads(line)
            if wanted(said):
                return said


class Pair:
    """One peer, and another of its kind that it is connected to, unless it is alone."""

    def __init__(self, peer: Peer, other: Peer | None) -> None:
        self._peer = peer
        self._other = other
        if other is not None:
            peer.ask("dial", address=other.address)

    def ask(self, command: str, **arguments: Any) -> Json:
        """A command to the one, about the other."""
        assert self._other is not None
        return self._peer.ask(command, peerId=self._other.peer_id, **arguments)

    def cpu(self) -> float:
        """Seconds of CPU that both have used."""
        return self._peer.cpu() + (self._other.cpu() if self._other is not None else 0.0)

    def meet(self, daemon: Running) -> str:
        """Have the daemon connect to it; its peer id."""
        call(daemon.ipc, "connect", address=self._peer.address)
        return self._peer.peer_id


@contextmanager
def in_process(name: str, *, alone: bool = False, listen: str = "/ip4/127.0.0.1/tcp/0") -> Iterator[Pair]:
    given = json.dumps({"listen": [listen], "protocols": [*SERVED, "/perf/1.0.0"]})
    with ExitStack() as stack:
        peers = [
            Peer(stack.enter_context(running([*COMMANDS[name](), given], stdin=-1, stdout=-1, stderr=-3)))
            for _ in range(1 if alone else 2)
        ]
        yield Pair(peers[0], None if alone else peers[1])
