"""The page at /ui: how a code becomes a token, what it may do then, and what a person sees in a real browser."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstird.rpc.ui_codes import LIFETIME, MOST, UiCodes
from tests.conftest import leave_out
from tests.harness import Process, Reply, asked_until, daemon, fetch, ipc, ws
from tests.support.chromium import Page, page
from tests.support.ports import free_port

PICTURES = Path(__file__).parents[2] / "docs" / "ui"
NOBODY = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
KEEP_PICTURES = "FABSTIR_UI_PICTURES"  # set: the pictures of the documents are made anew


async def code_of(running: Process, access: str = "read") -> str:
    async with ipc(running) as connection:
        made = await connection.call("ui.code", {"access": access})
    assert made["url"] == f"http://{running.api['http']}/ui#code={made['code']}"
    return str(made["code"])


async def change(running: Process, code: str, **headers: str | None) -> Reply:
    asked = json.dumps({"code": code}).encode()
    return await fetch(running, "POST", "/ui/token", asked, **{"authorization": None, **headers})


async def test_a_code_is_good_once_and_a_refused_try_does_not_use_it_up() -> None:
    async with daemon() as running:
        await running.ready()
        code = await code_of(running)
        origin = f"http://{running.api['http']}"
        refused = [
            await change(running, code + "x"),
            await change(running, ""),
            await change(running, code, origin="http://evil.example"),
            await change(running, code, origin="http://127.0.0.1:1"),
            await change(running, code, host="evil.example"),
            await change(running, code, content_type="text/plain"),
            await fetch(running, "POST", "/ui/token", b"[" * 1000, authorization=None),
        ]
        assert [reply.status for reply in refused] == [403, 403, 403, 403, 403, 415, 400]
        taken = await change(running, code, origin=origin)
        assert taken.status == 200
        assert "set-cookie" not in taken.headers
        assert taken.json["access"] == "read"
        assert (await change(running, code)).status == 403
        async with ws(running, taken.json["token"]) as caller:
            assert (await caller.call("status"))["peerId"].startswith("12D3")
            assert (await caller.error("stop"))["data"]["code"] == "FORBIDDEN"
        async with ipc(running) as connection:
            [token] = await connection.call("token.list")
            assert token["name"] == taken.json["name"]
            assert token["expires"] - token["created"] == 12 * 3600 * 1000


async def test_who_has_no_token_cannot_send_much() -> None:
    """A body of whoever had none was kept for as long as it took to come, a mebibyte of it on each connection."""
    async with daemon() as running:
        long = await change(running, "x" * 5000)
        assert (long.status, long.body) == (413, b"413 Request Entity Too Large\n")
        assert (await change(running, "x" * 3000)).status == 403


PAGE = Path(__file__).parents[2] / "fabstird" / "api" / "page" / "client.js"
SILENT = """
const later = setTimeout, faster = 500
globalThis.setTimeout = (run, ms) => later(run, ms / faster)
globalThis.location = { href: "http://127.0.0.1:1/ui" }
AbortSignal.timeout = (ms) => {
  const one = new AbortController()
  later(() => one.abort(new Error("timed out")), ms / faster)
  return one.signal
}
globalThis.fetch = (_, { signal }) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))
let tries = 0
globalThis.WebSocket = class {
  static OPEN = 1
  constructor() {
    if (++tries === 3) process.exit(0)
  }
  close() {
    queueMicrotask(() => this.onclose({ code: 1006 }))
  }
}
const { Client } = await import(process.env.PAGE)
new Client("token", { closed() {} })
later(() => process.exit(1), 120000)
"""


async def test_the_page_tries_again_where_a_daemon_takes_the_connection_and_is_silent(
    pytestconfig: pytest.Config,
) -> None:
    """One that hung, or was about to end, kept it waiting until the browser gave up, after four minutes."""
    if shutil.which("node") is None:
        leave_out(pytestconfig, "node", "there is no `node` here (on Debian: apt-get install nodejs)")
    ended = await trio.run_process(
        ["node", "--input-type=module", "--eval", SILENT], env={**os.environ, "PAGE": PAGE.as_uri()}, check=False
    )
    assert ended.returncode == 0


async def test_a_code_grants_no_more_than_its_caller_has() -> None:
    async with daemon() as running:
        await running.ready()
        async with ipc(running) as connection:
            made = await connection.call("token.create", {"name": "looker", "access": "read"})
        async with ws(running, made["token"]) as caller:
            assert "IPC socket" in (await caller.error("ui.code"))["message"]
        code = await code_of(running, "write")
        token = (await change(running, code)).json["token"]
        async with ws(running, token) as caller:
            await caller.call("stop")
            assert (await caller.error("log.tail"))["data"]["code"] == "FORBIDDEN"


async def test_the_page_can_be_switched_off() -> None:
    async with daemon({"api.ui": False}) as running:
        await running.ready()
        for path in ("/ui", "/ui/app.js"):
            assert (await fetch(running, "GET", path)).status == 404
        assert (await change(running, "x")).status == 404
        async with ipc(running) as connection:
            error = await connection.error("ui.code")
            assert (error["data"]["code"], error["data"]["configKey"]) == ("FEATURE_DISABLED", "api.ui")


async def test_the_page_needs_http() -> None:
    async with daemon({"api.http": ""}) as running:
        await running.ready()
        async with ipc(running) as connection:
            assert (await connection.error("ui.code"))["data"]["configKey"] == "api.http"


async def test_the_files_are_confined() -> None:
    async with daemon() as running:
        await running.ready()
        shown = await fetch(running, "GET", "/ui", authorization=None)
        assert shown.status == 200
        policy = shown.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert b"style=" not in shown.body
        assert b"<script>" not in shown.body
        for path in ("/ui/style.css", "/ui/app.js", "/ui/client.js", "/ui/views.js"):
            reply = await fetch(running, "GET", path, authorization=None)
            assert reply.status == 200
            assert b"innerHTML" not in reply.body
            assert not {word for word in reply.body.split(b'"') if word.startswith((b"https:", b"http:"))} - {
                b"http://www.w3.org/2000/svg"  # the name of SVG's elements
            }
        for path in ("/ui/../rpc", "/ui/%2e%2e/identity.key", "/ui/nothing.js"):
            assert (await fetch(running, "GET", path, authorization=None)).status in (401, 404)
        assert (await fetch(running, "GET", "/ui", authorization=None, host="evil.example")).status == 403


def test_codes_end_after_a_while_and_are_few() -> None:
    now = 0.0
    codes = UiCodes(lambda: now)
    first = codes.issue("read", "a test")
    assert codes.find(first.text) == first
    assert codes.find("\ud800") is None
    now = LIFETIME
    assert codes.find(first.text) is None
    made = [codes.issue("read", "a test") for _ in range(MOST + 1)]
    assert codes.find(made[0].text) is None
    assert codes.use(made[1])
    assert not codes.use(made[1])
    codes.restore(made[1])
    assert codes.find(made[1].text) == made[1]


async def test_dials_and_the_log_are_told() -> None:
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}"
    async with daemon({"node.bootstrap_nodes": [dead], "node.retry_delay": 60000}) as running:
        await running.started()
        async with ipc(running) as connection:
            told = await asked_until(  # the dial is refused at once
                lambda: connection.call("dials"), lambda found: found and found[0]["state"] == "waiting"
            )
            assert told[0]["source"] == "bootstrap"
            assert told[0]["attempts"] == 1
            assert told[0]["nextDial"] > 0
            assert "refused" in told[0]["lastError"]
            whole = await connection.call("log.tail")
            assert json.loads(whole["lines"][-1]["text"])["level"] == whole["lines"][-1]["level"]
            assert [line["seq"] for line in whole["lines"]] == list(range(1, whole["head"] + 1))
            some = await connection.call("log.tail", {"after": 1, "limit": 1})
            assert [line["seq"] for line in some["lines"]] == [2]
            assert (await connection.call("log.tail", {"level": "critical"}))["lines"] == []
            await connection.call("stop")
            assert await connection.call("dials") == []


# --------------------------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def browser(pytestconfig: pytest.Config) -> str:
    found = shutil.which("chromium")
    if found is None:
        leave_out(pytestconfig, "chromium", "there is no `chromium` here (on Debian: apt-get install chromium)")
    return found


def settings(**more: Any) -> dict[str, Any]:
    return {"node.enable_dht": True, "dht.mode": "server", "node.keepalive_interval": 600000, **more}


async def take_picture(shown: Page, name: str, width: int, height: int, *, dark: bool = False) -> None:
    await shown.look(width, height, dark=dark)
    assert await shown.run("document.documentElement.scrollWidth <= innerWidth"), "it must not scroll sideways"
    if os.environ.get(KEEP_PICTURES) and width < 2000:
        PICTURES.mkdir(exist_ok=True)
        await shown.picture(PICTURES / f"{name}.png")


async def test_the_page_shows_the_node_and_goes_on_after_a_restart(browser: str, tmp_path: Path) -> None:
    async with daemon(settings()) as other:
        await other.started()
        async with ipc(other) as connection:
            peer = await connection.call("status")
        dead = f"/ip4/127.0.0.1/tcp/1/p2p/{NOBODY}"
        port = free_port()
        nodes = {"node.bootstrap_nodes": [dead], "node.max_retries": 0, "api.http": f"127.0.0.1:{port}"}
        async with page(browser) as shown:
            data_dir = tmp_path / "data"
            async with daemon(settings(**nodes), data_dir=data_dir) as running:
                await running.started()
                code = await code_of(running, "admin")
                await shown.look(1280, 1000)
                await shown.open(f"http://127.0.0.1:{port}/ui#code={code}")
                await shown.until("document.querySelector('#state').textContent === 'started'")
                assert await shown.run("location.href") == f"http://127.0.0.1:{port}/ui"  # no code in it
                await shown.until("document.querySelector('#dials').innerText.includes('gave up')")
                await shown.until("document.querySelector('#next').innerText.includes('could not be reached')")
                await shown.run(f"document.querySelector('#connect-address').value = {peer['listenAddresses'][0]!r}")
                await shown.run("document.querySelector('#connect').click()")
                await shown.until("document.querySelector('#peers').innerText.includes('fabstird/')")
                await shown.until("document.querySelector('#events').innerText.includes('peer:connect')")
                await shown.until("document.querySelector('#log').innerText.includes('p2p:started')")
                assert peer["peerId"] not in await shown.text("#peers")  # short there, whole behind a click
                await shown.run("document.querySelector('#peers button').click()")
                await shown.until(f"document.querySelector('#details').innerText.includes({peer['peerId']!r})")
                await shown.run("document.querySelector('#details').close()")
                await shown.until("document.querySelector('#dht-mode').innerText === 'server, 1 peer'")
                with trio.fail_after(60):
                    async with ipc(other) as connection:
                        while not (await connection.call("dht.provide", {"key": "pictures"}))["confirmed"]:  # noqa: ASYNC110
                            await trio.sleep(0.2)  # it may not yet know that we are a server
                await shown.until("document.querySelector('#dht').innerText.includes('0 values and 1 provided key')")
                assert await shown.run("/ [0-9:]{8}Z$/.test(document.querySelector('#access').textContent)")
                assert await shown.run("document.querySelector('#figures').innerText.startsWith('1\\npeer\\n')")
                unreached = "{reachability: [{address: '/ip4/1.2.3.4', state: 'unknown', reachable: 'unreachable'}]}"
                said = f"v.whatNext({{state: 'started'}}, [1], [], {unreached})"
                await shown.run(f"import('/ui/views.js').then((v) => {{ window.said = {said} }}) && 1")
                await shown.until("window.said?.startsWith('Others cannot reach this node')")
                await take_picture(shown, "page-light", 1280, 1000)
                await take_picture(shown, "page-dark", 1280, 1000, dark=True)
                await take_picture(shown, "page-narrow", 400, 1200)
                await take_picture(shown, "page-4k", 3840, 2160)
                assert await unnamed(shown) == []
                await shown.run("dispatchEvent(new Event('hashchange'))")  # nothing new in it: the token still stands
                await shown.until("document.querySelector('#state').textContent === 'started'")
                await running.stop()
            await shown.until("document.querySelector('#state').textContent === 'no daemon'")
            async with daemon(settings(**nodes), data_dir=data_dir) as again:
                await again.started()
                await shown.until("document.querySelector('#state').textContent === 'started'")
                await shown.until("document.querySelector('#events').innerText.includes('restarted')")
                async with ipc(again) as connection:
                    for token in await connection.call("token.list"):
                        await connection.call("token.revoke", {"name": token["name"]})
                await shown.until("document.querySelector('#state').textContent === 'locked'")
                assert "fabstir ui" in await shown.text("#next")


async def test_a_page_that_may_only_look_has_no_buttons_to_act(browser: str) -> None:
    async with daemon(settings()) as running, page(browser) as shown:
        await running.started()
        await shown.open(f"http://{running.api['http']}/ui#code={await code_of(running)}")
        await shown.until("document.querySelector('#state').textContent === 'started'")
        assert await shown.run("document.querySelector('#connect-form').hidden")
        assert await shown.run("document.querySelector('#log-card').hidden")


async def unnamed(shown: Page) -> list[str]:
    """Controls that a screen reader could not name."""
    found = await shown.run(
        "[...document.querySelectorAll('button, input, select')].filter(one => !one.closest('[hidden]') && "
        "!one.innerText.trim() && !one.getAttribute('aria-label') && !one.closest('label')).map(one => one.outerHTML)"
    )
    return list(found)
