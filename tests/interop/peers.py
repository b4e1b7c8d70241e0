"""The interop peers by name, for tests that are the same for every implementation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal

import pytest

from tests.interop import cache, gopeer, jspeer, rustpeer
from tests.interop.peerdriver import Peer

Implementation = Literal["js", "go", "rust"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("js", "go", "rust")

START: dict[str, Callable[..., AbstractAsyncContextManager[Peer]]] = {
    "js": jspeer.js_peer,
    "go": gopeer.go_peer,
    "rust": rustpeer.rust_peer,
}
ENSURE: dict[str, Callable[[], object]] = {
    "js": jspeer.ensure_installed,
    "go": gopeer.ensure_built,
    "rust": rustpeer.ensure_built,
}
Missing = cache.ToolchainMissing

# A test so marked is run with each of them: its parameter `implementation` is the name, for `START`.
across = pytest.mark.parametrize("implementation", IMPLEMENTATIONS, indirect=True)
