"""go-libp2p as an interop peer: builds it once into the cache, and starts it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.interop import cache
from tests.interop.peerdriver import Peer, run_peer

HERE = Path(__file__).resolve().parent / "go"
BUILD_TIMEOUT = 1200.0  # seconds, on a machine that is busy with other things

__all__ = ["GoMissing", "ensure_built", "go_peer"]


class GoMissing(cache.ToolchainMissing):
    pass


def sources(made_from: Path = HERE) -> list[Path]:
    return [made_from / "go.mod", made_from / "go.sum", *cache.sources("*.go", HERE, made_from)]


def wanted() -> tuple[int, int]:
    """The oldest Go that `go.mod` allows."""
    found = re.search(r"^go (\d+)\.(\d+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2])


def missing() -> str | None:
    """What this machine lacks to build the peer, in words, or None."""
    if shutil.which("go") is None:
        return "go not found (on Debian: apt-get install golang-go)"
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < wanted():
        return f"go is {said.strip()}; the peer needs {wanted()[0]}.{wanted()[1]} or newer"
    return None


def ensure_built(made_from: Path = HERE) -> Path:
    """The peer's program, built first where needed, with the modules of the `go.mod` in `made_from`. Blocks; raises
    GoMissing or RuntimeError."""
    reason = missing()
    if reason is not None:
        raise GoMissing(reason)
    files = sources(made_from)
    home = cache.home(made_from.name, files, lambda place, lock: _build(files, place, lock), BUILD_TIMEOUT)
    return home / "peer"


def _build(files: Sequence[Path], place: Path, lock: int) -> None:
    build = place / "build"
    build.mkdir()
    for source in files:
        shutil.copyfile(source, build / source.name)
    environment = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": ""}
    options = ["-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", place / "peer"]
    cache.run(["go", "build", *options, "."], build, lock, BUILD_TIMEOUT, environment)
    shutil.rmtree(build)


@contextlib.asynccontextmanager
async def go_peer(
    *,
    listen: Sequence[str] = (),
    agent_version: str | None = None,
    protocols: Sequence[str] | None = None,
    seed: str | None = None,
    name: str = "go peer",
    made_from: Path = HERE,
    **options: Any,
) -> AsyncIterator[Peer]:
    """A running go-libp2p peer; the parameters are `js_peer`'s."""
    async with run_peer(
        name,
        [ensure_built(made_from)],
        listen=list(listen),
        agentVersion=agent_version,
        protocols=None if protocols is None else list(protocols),
        seed=seed,
        **options,
    ) as peer:
        yield peer


if __name__ == "__main__":  # `python -m tests.interop.gopeer` builds, and says what to run
    print(ensure_built())
