"""A page in headless Chromium, driven over the DevTools protocol: what a person would see and click."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

from tests.harness import until

PATIENCE = 240.0  # seconds for the browser to start, or for a page to show something, on a busy machine
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)


class Refused(AssertionError):
    """The browser does not do it: also where the page has just gone to another."""


class Page:
    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._socket.send_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(await self._socket.get_message())
            if message.get("id") == number:
                if "error" in message:
                    raise Refused(message)
                result: dict[str, Any] = message["result"]
                return result

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        told = await self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        with trio.move_on_after(PATIENCE):
            while True:
                with suppress(Refused):
                    if await self.run(f"Boolean({script})"):
                        return
                await trio.sleep(0.1)
        raise AssertionError(f"not in {PATIENCE} s: {script}; the page shows:\n{await self.text()}")

    async def text(self, selector: str = "body") -> str:
        shown = await self.run(f"document.querySelector({json.dumps(selector)})?.innerText")
        return str(shown)

    async def open(self, url: str) -> None:
        await self.command("Page.enable")
        await self.command("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """A window of this size, in light or dark colours."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def picture(self, file: Path) -> None:
        shot = await self.command("Page.captureScreenshot", format="png")
        await trio.Path(file).write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def page(browser: str) -> AsyncIterator[Page]:
    """A tab of a new browser, with nothing in it yet."""
    with tempfile.TemporaryDirectory(prefix="fabstir-chromium-", ignore_cleanup_errors=True) as profile:
        command = [browser, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        async with trio.open_nursery() as nursery:
            nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            nursery.start_soon(partial(trio.run_process, command, check=False, **nothing))
            async with open_websocket_url(await _target(Path(profile)), max_message_size=64 * 1024 * 1024) as socket:
                yield Page(socket)
            nursery.cancel_scope.cancel()


async def _target(profile: Path) -> str:
    """The first tab's address for the DevTools protocol."""
    where = profile / "DevToolsActivePort"
    with trio.fail_after(PATIENCE):
        await until(lambda: where.exists() and "\n" in where.read_text(), within=PATIENCE)
        port, path = where.read_text().split("\n")[:2]
        async with open_websocket_url(f"ws://127.0.0.1:{port}{path}") as browser:
            for number in itertools.count(1):
                await browser.send_message(json.dumps({"id": number, "method": "Target.getTargets"}))
                told = json.loads(await browser.get_message())
                found = [one for one in told["result"]["targetInfos"] if one["type"] == "page"]
                if found:
                    return f"ws://127.0.0.1:{port}/devtools/page/{found[0]['targetId']}"
                await trio.sleep(0.1)
    raise AssertionError("unreachable")
