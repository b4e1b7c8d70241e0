"""The build for browsers, in a real one, with no bundler: a page that is let in calls, follows events and streams."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.clients.toolbox import Tools
from tests.conformance.test_browser import Site, browser, visit
from tests.harness import daemon

__all__ = ["browser"]

PAGE = """<!doctype html><title>page</title><script type="module">
import { connect, hasCode } from "/dist/index.js";
import { P2PClient } from "/dist/p2p.js";
const report = {};
try {
  const client = await connect({ api: "HTTP", token: "TOKEN" });
  report.version = client.daemonVersion;
  const events = client.events({ types: ["peer:connect", "peer:disconnect"] });
  const { peerId } = await client.connect("ADDRESS");
  report.event = (await events.next()).value.type;
  await client.handle("/page/1", async (stream) => {
    for await (const bytes of stream) await stream.write(bytes);
    await stream.end();
  });
  const stream = await client.openStream(peerId, "/echo/1");
  const data = new Uint8Array(300000).map((_, index) => index % 251);
  const writing = (async () => { await stream.write(data); await stream.end(); })();
  let at = 0, same = true;
  for await (const bytes of stream) for (const byte of bytes) same &&= byte === data[at++];
  await writing;
  report.echo = [at, same];
  const reset = await client.openStream(peerId, "/reset/1");
  await reset.write("x");
  const read = async () => { for await (const _ of reset); return "a clean end"; };
  report.reset = await read().catch((error) => error.code);
  report.refused = await client.openStream(peerId, "/nobody/1").catch((error) => error.name);
  report.wrong = await connect({ api: "HTTP", token: "wrong" }).catch((error) => error.code);
  const p2p = new P2PClient({}, { api: "HTTP", token: "TOKEN", shared: true });
  await p2p.start();
  report.p2p = [p2p.getStatus(), p2p.getConnectedPeers().length];
  await p2p.stop();
  await client.close();
} catch (error) {
  report.error = `${error.name} ${error.code}: ${error.message}`;
}
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
</script>"""


HOST = """
import { connect } from "fabstir-client";
const client = await connect();
await client.handle("/echo/1", async (stream) => {
  for await (const bytes of stream) await stream.write(bytes);
  await stream.end();
});
await client.handle("/reset/1", async (stream) => {
  await stream.read();
  await stream.reset();
});
console.log((await client.status()).listenAddresses[0]);
"""


class PackageSite(Site):
    """Serves the page, and the package's build for browsers as it lies in the tarball."""

    def __init__(self, dist: Path) -> None:
        super().__init__()
        self.dist = dist

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                data = await stream.receive_some()
                if not data:
                    return  # a connection that the browser opened in advance
                received += data
            head, _, body = received.partition(b"\r\n\r\n")
            method, target = head.split(b" ")[:2]
            if method == b"POST":
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                while len(body) < int(fields[b"content-length"]):
                    body += await stream.receive_some()
                self.report = json.loads(body)
                self.reported.set()
            file = self.dist / target.decode().removeprefix("/dist/")
            if target == b"/":
                content, kind = self.page, "text/html"
            else:
                content, kind = (file.read_bytes() if file.is_file() else b""), "text/javascript"
            about = f"content-type: {kind}; charset=utf-8\r\ncontent-length: {len(content)}\r\nconnection: close"
            await stream.send_all(f"HTTP/1.1 200 OK\r\n{about}\r\n\r\n".encode() + content)


@asynccontextmanager
async def package_site(dist: Path) -> AsyncIterator[PackageSite]:
    served = PackageSite(dist)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        served.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, served.serve, [listener])
        yield served
        nursery.cancel_scope.cancel()


async def test_a_page(browser: str, tools: Tools, installed: Path) -> None:
    dist = installed / "node_modules" / "fabstir-client" / "dist" / "browser"
    async with (
        package_site(dist) as served,
        daemon({"api.allowed_origins": [f"http://127.0.0.1:{served.port}"]}) as here,
        daemon() as there,
    ):
        await here.started()
        await there.started()
        words = [tools.node(), "--input-type=module", "-e", HOST]
        environment = {"FABSTIR_API": f"ipc:{there.api['ipc']}"}
        host = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=installed, env=environment)  # noqa: ASYNC220 - only started here
        try:
            assert host.stdout is not None
            address = (await trio.to_thread.run_sync(host.stdout.readline)).decode().strip()
            filled = {"HTTP": f"http://127.0.0.1:{here.port}", "TOKEN": here.token, "ADDRESS": address}
            page = PAGE
            for name, value in filled.items():
                page = page.replace(name, value)
            served.page = page.encode()
            report = await visit(browser, f"http://127.0.0.1:{served.port}/", served)
        finally:
            host.kill()
            host.communicate()
    assert report == {
        "version": here.api["version"],
        "event": "peer:connect",
        "echo": [300000, True],
        "reset": "STREAM_RESET",
        "refused": "BadAnswer",
        "wrong": "DAEMON_UNREACHABLE",
        "p2p": ["started", 1],
    }
