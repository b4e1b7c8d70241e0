"""A js-libp2p peer, reached through the daemon by programs that hold no libp2p: the examples in CommonJS and as an ES
module, and a page. Each connects, prints events, reads 5,000 tokens, cuts the stream, and ends by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients import toolbox
from tests.clients.test_browser import package_site
from tests.clients.toolbox import HERE, ROOT, Tools
from tests.conformance.test_browser import browser, visit
from tests.conftest import leave_out
from tests.harness import daemon, running_daemon
from tests.interop import jspeer

__all__ = ["browser"]

PAGE = """<!doctype html><title>tokens</title><script type="module">
import { connect } from "/dist/index.js";
const report = { tokens: 0, events: [] };
try {
  const client = await connect({ api: "HTTP", token: "TOKEN" });
  const events = client.events({ types: ["peer:connect", "peer:disconnect"] });
  const { peerId } = await client.connect("ADDRESS");
  const stream = await client.openStream(peerId, "/example/tokens/1.0.0");
  for await (const bytes of stream) {
    report.tokens += bytes.filter((byte) => byte === 10).length;
    if (report.tokens >= 5000) break;
  }
  await client.disconnect(peerId);
  for await (const event of events) {
    report.events.push(event.type);
    if (event.type === "peer:disconnect") break;
  }
  await client.close();
} catch (error) {
  report.error = `${error.name} ${error.code}: ${error.message}`;
}
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
</script>"""


@pytest.fixture(scope="module")
def host_command(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The host, beside the packages of the interop tests."""
    try:
        node, script = jspeer.ensure_installed()
    except jspeer.JsMissing as error:
        leave_out(pytestconfig, "js", str(error))
    place = tmp_path_factory.mktemp("js-libp2p")
    shutil.copy(HERE / "js" / "host.mjs", place)
    (place / "node_modules").symlink_to(script.parent.parent / "node_modules")
    return [str(node), str(place / "host.mjs")]


@contextmanager
def js_host(command: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and itself."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        try:
            yield popen.stdout.readline().strip(), popen
        finally:
            popen.kill()


def cut(popen: subprocess.Popen[str]) -> bool:
    """Whether the host's next word is that a reader has cut its stream."""
    assert popen.stdout is not None
    return popen.stdout.readline().startswith("cut: ")


@pytest.mark.parametrize("name", ["tokens.cjs", "tokens.mjs"])
def test_tokens_from_js_libp2p(tools: Tools, tarball: Path, tmp_path: Path, host_command: list[str], name: str) -> None:
    """In a fresh project, with nothing but the tarball."""
    kind = {"type": "module"} if name.endswith(".mjs") else {}
    place = toolbox.project(tools, tarball, tmp_path / "project", **kind)
    shutil.copy(ROOT / "examples" / "typescript" / name, place)
    with running_daemon() as running, js_host(host_command) as (address, host):
        for major in toolbox.NODES:
            told = toolbox.run([tools.node(major), name, address], place, {"FABSTIR_API": running.ipc})
            tokens, *events = told.splitlines()
            assert int(tokens.removesuffix(" tokens")) >= 5000
            assert events[-2:] == ["peer:connect", "peer:disconnect"]
            assert cut(host)


async def test_a_page_reads_tokens_from_js_libp2p(browser: str, installed: Path, host_command: list[str]) -> None:
    dist = installed / "node_modules" / "fabstir-client" / "dist" / "browser"
    async with (
        package_site(dist) as served,
        daemon({"api.allowed_origins": [f"http://127.0.0.1:{served.port}"]}) as here,
    ):
        await here.started()
        with js_host(host_command) as (address, host):
            filled = {"HTTP": f"http://127.0.0.1:{here.port}", "TOKEN": here.token, "ADDRESS": address}
            page = PAGE
            for name, value in filled.items():
                page = page.replace(name, value)
            served.page = page.encode()
            report = await visit(browser, f"http://127.0.0.1:{served.port}/", served)
            assert report.pop("tokens") >= 5000, report
            assert report == {"events": ["peer:connect", "peer:disconnect"]}
            assert cut(host)
