"""What one node announces by way of a second, a third finds: every triple of implementations.

The one in the middle is the only server of the DHT that both others know, and these are clients: whatever is found, it
holds. `make test` runs the triples with the daemon in the middle; `make dht-triples` all 64, and writes them into
docs/dht.md.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from fabstir_client.api.errors import FabstirError
from tests.harness import Daemon, asked_until, fabstird
from tests.interop.peerdriver import Peer, PeerError
from tests.interop.peers import IMPLEMENTATIONS, START
from tests.interop.test_dht import LISTEN, b64

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures(*IMPLEMENTATIONS)]

OURS = "fabstird"
ALL = (OURS, *IMPLEMENTATIONS)
DOCUMENT = os.environ.get("FABSTIR_TRIPLES")  # where the table goes
BEGIN, END = "<!-- made by: make dht-triples -->", "<!-- end of the triples -->"
PATIENCE = 90.0  # seconds until something is found; a machine that is busy with other things is slow
Triple = tuple[str, str, str]  # in the middle, provider, seeker

# rust-libp2p tells of itself with its external addresses only (kad/src/behaviour.rs, AddProvider), of which it has none
# until somebody has confirmed one; and js, go and rust do not keep, or do not name, a provider without an address. The
# daemon names it with the address at which it has met it.
KNOWN = {(between, "rust", seeker): "provider" for between in IMPLEMENTATIONS for seeker in ALL}


class Node(Protocol):
    peer_id: str

    async def provide(self, key: bytes) -> Any: ...
    async def put(self, key: bytes, value: bytes) -> Any: ...
    async def providers(self, key: bytes) -> list[str]: ...
    async def value(self, key: bytes) -> str | None: ...


class Ours:
    def __init__(self, daemon: Daemon) -> None:
        self.peer_id = daemon.peer_id
        self._call = daemon.call

    async def provide(self, key: bytes) -> Any:
        return await self._call("dht.provide", key=b64(key), encoding="base64")

    async def put(self, key: bytes, value: bytes) -> Any:
        return await self._call("dht.put_value", key=b64(key), encoding="base64", value=b64(value))

    async def providers(self, key: bytes) -> list[str]:
        found = await self._call("dht.find_providers", key=b64(key), encoding="base64")
        return [one["peerId"] for one in found["providers"]]

    async def value(self, key: bytes) -> str | None:
        return (await self._call("dht.get_value", key=b64(key), encoding="base64")).get("value")


class Theirs:
    def __init__(self, peer: Peer) -> None:
        self.peer_id = peer.peer_id
        self._call = peer.call

    async def provide(self, key: bytes) -> Any:
        return await self._call("dhtProvide", key=b64(key))

    async def put(self, key: bytes, value: bytes) -> Any:
        return await self._call("dhtPut", key=b64(key), value=b64(value))

    async def providers(self, key: bytes) -> list[str]:
        return [one["peerId"] for one in (await self._call("dhtFindProviders", key=b64(key)))["providers"]]

    async def value(self, key: bytes) -> str | None:
        return (await self._call("dhtGet", key=b64(key)))["value"]


@asynccontextmanager
async def middle(implementation: str) -> AsyncIterator[str]:
    """A server's address."""
    if implementation == OURS:
        async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as daemon:
            yield daemon.address("tcp")
    else:
        async with START[implementation](listen=LISTEN, dht="server") as peer:
            yield peer.address("tcp")


@asynccontextmanager
async def client(implementation: str, server: str) -> AsyncIterator[Node]:
    """One that knows this server and nobody else."""
    if implementation == OURS:
        async with fabstird(settings={"dht.mode": "client"}, enable_dht=True) as daemon:
            await daemon.call("connect", address=server)
            await asked_until(lambda: daemon.call("dht.status"), lambda status: status["peers"] >= 1)
            yield Ours(daemon)
    else:
        async with START[implementation](listen=LISTEN, dht="client") as peer:
            await peer.call("dhtAddPeer", address=server)
            yield Theirs(peer)


def key(provider: str, of: str) -> bytes:
    return b"\x12\x20" + sha256(f"{of} {provider}".encode()).digest()


async def shown_by(between: str) -> dict[Triple, str]:
    """What works with this implementation in the middle, by triple: nothing missing, or what is."""
    seen: dict[Triple, str] = {}
    ready = {provider: trio.Event() for provider in ALL}
    left = len(ALL)
    over = trio.Event()

    async def provide(implementation: str, server: str) -> None:
        async with client(implementation, server) as node:
            ids[implementation] = node.peer_id
            await node.provide(key(implementation, "provider"))
            await node.put(key(implementation, "value"), implementation.encode())
            ready[implementation].set()
            await over.wait()

    async def seek(implementation: str, server: str) -> None:
        nonlocal left
        for event in ready.values():
            await event.wait()  # who comes later has not been told
        async with client(implementation, server) as node:
            for provider in ALL:
                seen[between, provider, implementation] = await missing(node, provider)
        left -= 1
        if not left:
            over.set()

    async def missing(node: Node, provider: str) -> str:
        """To be told of a provider is not answered: it may come a moment later."""
        lacks = ["provider", "value"]
        with trio.move_on_after(PATIENCE):
            while lacks:
                if "provider" in lacks and ids[provider] in await _or(node.providers(key(provider, "provider")), []):
                    lacks.remove("provider")
                if "value" in lacks and await _or(node.value(key(provider, "value")), None) == b64(provider.encode()):
                    lacks.remove("value")
                await trio.sleep(0.1)
        return " and ".join(lacks)

    ids: dict[str, str] = {}
    async with middle(between) as server, trio.open_nursery() as nursery:
        for implementation in ALL:
            nursery.start_soon(provide, implementation, server)
            nursery.start_soon(seek, implementation, server)
    return seen


async def _or(asked: Any, nothing: Any) -> Any:
    """js, go and rust answer with an error where there is nothing."""
    try:
        return await asked
    except (PeerError, FabstirError):
        return nothing


def table(seen: dict[Triple, str]) -> str:
    head = f"| bootstrap | provider | {' | '.join(ALL)} |\n| --- | --- |{' --- |' * len(ALL)}\n"
    rows = (
        f"| {between} | {provider} | {' | '.join(_word(seen[between, provider, seeker]) for seeker in ALL)} |\n"
        for between in ALL
        for provider in ALL
    )
    return head + "".join(rows)


def _word(lacks: str) -> str:
    return f"no {lacks}" if lacks else "yes"


def write(path: Path, seen: dict[Triple, str]) -> None:
    before, rest = path.read_text().split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{table(seen)}\n{END}{rest.split(END)[1]}")


@pytest.mark.skipif(DOCUMENT is not None, reason="`make dht-triples` runs it with all others")
async def test_what_anybody_announces_by_way_of_the_daemon_everybody_finds() -> None:
    seen = await shown_by(OURS)
    assert {triple: lacks for triple, lacks in seen.items() if lacks} == {}
    assert len(seen) == len(ALL) ** 2


@pytest.mark.skipif(DOCUMENT is None, reason="takes minutes: `make dht-triples` runs it")
async def test_all_triples() -> None:
    seen: dict[Triple, str] = {}
    for between in ALL:
        seen |= await shown_by(between)
    assert DOCUMENT is not None
    write(Path(DOCUMENT), seen)
    assert {triple: lacks for triple, lacks in seen.items() if lacks} == KNOWN
