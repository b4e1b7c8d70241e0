"""The node's states, with a real host on loopback."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from fabstir_client.api.errors import InvalidState, ListenFailed
from fabstird import threads
from fabstird.config import Config, NodeConfig
from fabstird.config.keys import TlsConfig
from fabstird.events import Entry, EventLog
from fabstird.identity import Identity
from fabstird.metrics.counters import Counters
from fabstird.p2p import node as node_module
from fabstird.p2p import run as run_module
from fabstird.p2p.node import Node
from fabstird.p2p.peers.book import Book
from tests.support.authority import Authority
from tests.support.ports import taken_port


@asynccontextmanager
async def running(
    folder: Path, address: str = "/ip4/127.0.0.1/tcp/0", tls: TlsConfig | None = None
) -> AsyncIterator[tuple[Node, list[str]]]:
    """A node, and what its events are."""
    settings = NodeConfig(listen_addresses=(address,), enable_mdns=False, enable_dht=True)
    config = Config(node=settings, tls=tls or TlsConfig())
    events, told = EventLog(100), list[str]()

    def tell(entry: Entry) -> None:
        told.append(entry.type)

    events.tap(tell)
    node = Node(config, Identity.from_seed(bytes(32)), events, Counters(), Book(folder / "peers.json"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        yield node, told
        nursery.cancel_scope.cancel()


async def stopped_at(hop: int, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Stop a node while its start waits for the ``hop``th thing that is done in a thread, which cannot be cut off;
    whether it came to that."""
    hops, answered = 0, trio.Event()

    def stopping_in(wait: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wait_while_stopping(*args: Any, **options: Any) -> Any:
            nonlocal hops
            result = await wait(*args, **options)
            hops += 1
            if hops == hop:
                nursery.start_soon(stop)
                with trio.CancelScope(shield=True):
                    while node.state == "starting":
                        await trio.lowlevel.checkpoint()
            return result

        return wait_while_stopping

    async def stop() -> None:
        await node.stop()
        assert node.state == "stopped"
        told.append("stop answered")
        answered.set()

    async with running(folder, address) as (node, told), trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:
            for module, name in ((node_module, "load"), (run_module, "on_disk")):
                patch.setattr(module, name, stopping_in(getattr(module, name)))
            try:
                await node.start()
            except InvalidState:
                pass  # it was stopped before it had started
            if hops < hop:
                return False
            await answered.wait()
            await trio.testing.wait_all_tasks_blocked()
        assert told == ["stop answered"]
        assert node.error is None
        return True
    raise AssertionError


async def test_a_stop_counts_that_comes_while_a_start_waits_for_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hop = 1
    while await stopped_at(hop, tmp_path, "/ip4/127.0.0.1/tcp/0", monkeypatch):
        hop += 1
    assert hop > 2, "a start imports libp2p and reads what is kept of the DHT"


async def test_a_stop_counts_that_comes_before_a_start_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_port() as port:
        assert await stopped_at(1, tmp_path, f"/ip4/127.0.0.1/tcp/{port}", monkeypatch)


async def test_a_certificate_is_read_again_only_where_listeners_show_it(tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("localhost")
    key = trio.Path(files["tls.key"])
    content = await key.read_bytes()
    tls, secure = TlsConfig(files["tls.certificate"], files["tls.key"]), "/ip4/127.0.0.1/tcp/0/tls/ws"
    async with running(tmp_path, secure, tls) as (node, _):
        await key.write_text("no key")
        with pytest.raises(ListenFailed):
            await node.start()
        assert node.reload_certificate() == "", "nothing has come to be used of these files"
        await key.write_bytes(content)
        await node.start()
        await key.write_text("no key")
        assert "do not serve" in node.reload_certificate()
        await node.stop()
        await node.start({"listenAddresses": ["/ip4/127.0.0.1/tcp/0"]})
        assert node.reload_certificate() == "", "no listener of this run shows one"
        await node.stop()


async def test_a_stop_waits_for_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it took longer than a stop may: the daemon was cut off, and left its sockets behind."""
    go_on, over = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        go_on.wait(60)
        over.set()

    monkeypatch.setattr(node_module, "_loaded", False)
    monkeypatch.setattr(threads, "importlib", SimpleNamespace(import_module=slow))
    with trio.move_on_after(0.05) as scope:
        await node_module.load()
    assert scope.cancelled_caught
    assert not over.is_set()
    go_on.set()
