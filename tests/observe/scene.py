"""A real Prometheus that scrapes a real daemon, and daemons that keep it busy: for the test of the board and its
picture."""

from __future__ import annotations

import itertools
import json
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.harness import Connection, Process, daemon, fetch, ipc, post, until, ws
from tests.support.ports import free_port, refusing_port

DOCS = Path(__file__).parents[2] / "docs"
BOARD = DOCS / "grafana" / "fabstird.json"
ALERTS = DOCS / "grafana" / "alerts.yml"
READY = 120.0  # seconds for Prometheus to answer, on a busy machine
STRANGER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP API."""

    url: str

    async def get(self, path: str, **params: str) -> Any:
        """The ``data`` of an answer."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(params)}"

        def read() -> Any:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]

        return await trio.to_thread.run_sync(read)

    async def values(self, expression: str) -> list[float]:
        """What an instant query gives now, without what is no number."""
        found = (await self.get("query", query=expression))["result"]
        numbers = [float(sample["value"][1]) for sample in found]
        return [number for number in numbers if number == number]


@asynccontextmanager
async def prometheus(
    target: Process, directory: Path, interval: str = "1s", found_by: Mapping[str, Any] | None = None
) -> AsyncIterator[Prometheus]:
    """One that scrapes ``target`` with its token, and has the alerts loaded. ``found_by``: what a job says instead of
    the token and the target."""
    found_by = found_by or {
        "authorization": {"credentials_file": str(target.data_dir / "api.token")},
        "static_configs": [{"targets": [f"127.0.0.1:{target.port}"]}],
    }
    (directory / "prometheus.yml").write_text(
        json.dumps(  # JSON is YAML
            {
                "global": {"scrape_interval": interval, "evaluation_interval": interval},
                "rule_files": [str(ALERTS)],
                "scrape_configs": [{"job_name": "fabstird", **found_by}],
            }
        )
    )
    port = free_port()
    with (directory / "prometheus.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        served = Prometheus(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            assert process.poll() is None, (directory / "prometheus.log").read_text()
            try:
                with urllib.request.urlopen(f"{served.url}/-/ready", timeout=5):
                    return True
            except OSError:
                return False

        await until(ready, within=READY, every=0.1)
        yield served
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


def expressions(rate: str = "10s") -> dict[str, str]:
    """The queries of the board by ``panel, legend``, with Grafana's variables filled in."""
    board = json.loads(BOARD.read_text())
    found = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", rate).replace("$instance", ".*")
            found[f"{panel['title']}, {target['legendFormat']}"] = text
    return found


Step = Callable[[], Awaitable[object]]


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[Process, list[Step]]]:
    """A daemon, and steps that move every number of the board: to be taken again and again."""
    with refusing_port() as closed:
        async with _busy(f"/ip4/127.0.0.1/tcp/{closed}/p2p/{STRANGER}") as found:
            yield found


@asynccontextmanager
async def _busy(dead: str) -> AsyncIterator[tuple[Process, list[Step]]]:
    settings = {"node.bootstrap_nodes": [dead], "node.max_retries": 1, "node.retry_delay": 500, "log.level": "info"}
    settings |= {"node.keepalive_interval": 3000, "events.history": 64}
    async with daemon(settings) as alice, daemon() as bob:
        await alice.started()
        await bob.started()
        async with ipc(alice) as one, ipc(bob) as other, ws(alice) as slow:
            there = (await other.call("status"))["listenAddresses"][0]
            here = (await one.call("status"))["listenAddresses"][0]
            await slow.call("subscribe", {"after": 0})
            turns = itertools.count()

            async def connect() -> None:
                by, target = ((one, there), (other, here))[next(turns) % 2]
                await by_answer(by, "connect", {"address": target})
                await by_answer(one, "ping", {"peerId": there.rpartition("/")[2]})

            async def disconnect() -> None:
                await by_answer(one, "disconnect", {"peerId": there.rpartition("/")[2]})

            async def fail() -> None:
                await by_answer(one, "connect", {"address": dead})
                await by_answer(one, "no.such.method", {})
                await by_answer(one, "ping", {"peerId": STRANGER})

            async def ask() -> None:
                for method in ("status", "peers", "metrics", "addresses"):
                    await one.call(method)
                await post(alice, {"jsonrpc": "2.0", "id": 1, "method": "status"})
                await fetch(alice, "GET", "/readyz", authorization=None)

            async def knock() -> None:
                host, port = here.split("/")[2], int(here.split("/")[4])
                async with await trio.open_tcp_stream(host, port) as stream:
                    await stream.send_all(b"no libp2p\n")
                    with trio.move_on_after(1):
                        await stream.receive_some()

            async def drain() -> None:
                with trio.move_on_after(0.05):
                    while await slow.receive_text():
                        pass

            yield alice, [connect, ask, fail, disconnect, knock, drain]


async def by_answer(connection: Connection, method: str, params: Any) -> None:
    """A call whose outcome, error or not, is not the point."""
    await connection.answer(method, params)
