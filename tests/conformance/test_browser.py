"""A real browser on a page of another origin: it tries all that a page can, and gets nothing. On a page that the daemon
lets in, the same attempts with the token get everything."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import leave_out
from tests.harness import Process, daemon, ipc, until

PATIENCE = 240.0  # seconds for the browser to start and report, on a machine that is busy with other things
EVIL = "evil.example"  # resolves to this machine, in the browser
PAGE = """<!doctype html><title>page</title><script>
const port = PORT, token = "TOKEN", other = "OTHER"
const stop = JSON.stringify({jsonrpc: "2.0", id: 1, method: "stop"})
const version = JSON.stringify({jsonrpc: "2.0", id: 1, method: "version"})
const json = {"content-type": "application/json", authorization: `Bearer ${token}`}
const base = `http://127.0.0.1:${port}`
const read = async (url, options) => (await fetch(url, options)).text()
const socket = (url) => new Promise((resolve, reject) => {
  const ws = new WebSocket(url)
  ws.onopen = () => ws.send(version)
  ws.onmessage = ({data}) => { resolve(data); ws.close() }
  ws.onerror = () => reject(new Error("no WebSocket"))
})
const element = (name, url) => new Promise((resolve, reject) => {
  const made = document.createElement(name)
  made.onload = () => resolve("loaded"), made.onerror = () => reject(new Error("not loaded"))
  made.src = url
  document.body.append(made)
})
const attempts = {
  "fetch with the token": () => read(`${base}/rpc`, {method: "POST", headers: json, body: version}),
  "fetch without a preflight": () => read(`${base}/rpc`, {method: "POST", body: stop}),
  "fetch that cannot read": () => read(`${base}/rpc`, {method: "POST", mode: "no-cors", body: stop}),
  "fetch of the metrics": () => read(`${base}/metrics`, {headers: {authorization: `Bearer ${token}`}}),
  "fetch of the health": () => read(`${base}/healthz`),
  "WebSocket with the token": () => socket(`ws://127.0.0.1:${port}/ws?token=${token}`),
  "WebSocket without": () => socket(`ws://127.0.0.1:${port}/ws`),
  "WebSocket by another name": () => socket(`ws://${other}:${port}/ws?token=${token}`),
  "fetch by another name": () => read(`http://${other}:${port}/rpc`, {method: "POST", headers: json, body: version}),
  "script": () => element("script", `${base}/openrpc.json`),
}
const within = (attempt) => Promise.race([
  attempt(), new Promise((_, reject) => setTimeout(() => reject(new Error("nothing came")), 15000)),
])
addEventListener("load", async () => {
  const results = {}
  for (const [name, attempt] of Object.entries(attempts)) {
    try { results[name] = {got: await within(attempt)} } catch (error) { results[name] = {refused: String(error)} }
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(results)})
})
</script><body></body>"""


@pytest.fixture
def browser(pytestconfig: pytest.Config) -> str:
    found = shutil.which("chromium")
    if found is None:
        leave_out(pytestconfig, "chromium", "there is no `chromium` here (on Debian: apt-get install chromium)")
    return found


class Site:
    """Serves the page at `port`, and keeps what it reports."""

    def __init__(self) -> None:
        self.page = b""
        self.port = 0
        self.report: dict[str, Any] = {}
        self.reported = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One request, from a browser that may be gone before it is answered."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                data = await stream.receive_some()
                if not data:
                    return  # a connection that the browser opened in advance
                received += data
            head, _, body = received.partition(b"\r\n\r\n")
            if head.startswith(b"POST /report"):
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                while len(body) < int(fields[b"content-length"]):
                    body += await stream.receive_some()
                self.report = json.loads(body)
                self.reported.set()
            page = self.page if head.startswith(b"GET / ") else b""
            about = f"content-type: text/html; charset=utf-8\r\ncontent-length: {len(page)}\r\nconnection: close"
            await stream.send_all(f"HTTP/1.1 200 OK\r\n{about}\r\n\r\n".encode() + page)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    served = Site()
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        served.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, served.serve, [listener])
        yield served
        nursery.cancel_scope.cancel()


async def visit(browser: str, url: str, served: Site) -> dict[str, Any]:
    """What the page reports."""
    with tempfile.TemporaryDirectory(prefix="fabstir-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        command += [f"--user-data-dir={profile}", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1", url]
        with (Path(profile) / "log").open("wb") as log:
            nothing = subprocess.DEVNULL
            running = subprocess.Popen(command, stdin=nothing, stdout=log, stderr=log)  # noqa: ASYNC220 - only started here
        try:
            with trio.move_on_after(PATIENCE):
                await served.reported.wait()
            words = (Path(profile) / "log").read_text(errors="replace")[-2000:]
            assert served.reported.is_set(), f"the page did not report within {PATIENCE} s: {words}"
        finally:
            running.terminate()
            running.wait(60)
    return served.report


def page(running: Process) -> bytes:
    return PAGE.replace("PORT", str(running.port)).replace("TOKEN", running.token).replace("OTHER", EVIL).encode()


@pytest.mark.parametrize("host", ["127.0.0.1", EVIL])
async def test_a_page_of_another_origin_gets_nothing(browser: str, host: str) -> None:
    """Even where it knows the token, and even where its own name is made to mean this machine (DNS rebinding)."""
    async with daemon({"log.level": "debug"}) as running, site() as served:
        await running.started()
        served.page = page(running)
        report = await visit(browser, f"http://{host}:{served.port}/", served)
        unread = report.pop("fetch that cannot read")  # a page may send this, and learns not even the status
        assert unread.get("got", "") == ""
        assert {name: outcome for name, outcome in report.items() if "got" in outcome} == {}
        assert len(report) == 9
        async with ipc(running) as connection:
            assert (await connection.call("status"))["state"] == "started"  # nothing was carried out

        def refused() -> list[int]:
            return [line["status"] for line in running.lines() if line["event"] == "request refused"]

        await until(lambda: len(refused()) >= 8)  # the log may come a moment later
        assert set(refused()) == {401, 403}  # 401: a script's request tells no Origin


async def test_a_page_that_is_let_in_gets_what_its_token_allows(browser: str) -> None:
    """The same page, so that the test above fails where the page does not work."""
    async with site() as served, daemon({"api.allowed_origins": [f"http://127.0.0.1:{served.port}"]}) as running:
        await running.started()
        served.page = page(running)
        report = await visit(browser, f"http://127.0.0.1:{served.port}/", served)
        for name in ("fetch with the token", "WebSocket with the token"):
            assert json.loads(report[name]["got"])["result"]["version"] == running.api["version"], report
        assert "fabstird_" in report["fetch of the metrics"]["got"]
        for name in ("WebSocket without", "WebSocket by another name", "fetch by another name"):
            assert "refused" in report[name], report
        async with ipc(running) as connection:
            assert (await connection.call("status"))["state"] == "started"
