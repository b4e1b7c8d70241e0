"""rust-libp2p 0.54, the Fabstir node's version, as an interop peer: builds it once into the cache, and starts it."""

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

HERE = Path(__file__).resolve().parent / "rust"
BUILD_TIMEOUT = 1800.0  # seconds: some 350 crates, on a machine that is busy with other things
# One small crate of the real lock file; cargo says where it would get it from.
PROBE = '[package]\nname = "probe"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\ncfg-if = "1"\n'

__all__ = ["RustMissing", "ensure_built", "fabstir_node", "rust_peer"]


class RustMissing(cache.ToolchainMissing):
    pass


def sources(made_from: Path = HERE) -> list[Path]:
    own = HERE / "src" if made_from == HERE else made_from
    manifest = [made_from / "Cargo.toml", made_from / "Cargo.lock", HERE / "build.rs"]
    return [*manifest, *cache.sources("*.rs", HERE / "src", own)]


def ensure_built(made_from: Path = HERE) -> Path:
    """The peer's program, built first where needed, with the crates of the lock file in `made_from`. Blocks; raises
    RustMissing or RuntimeError."""
    lacking = [name for name in ("cargo", "rustc", "cc") if shutil.which(name) is None]
    if lacking:
        raise RustMissing(f"{' and '.join(lacking)} not found (on Debian: apt-get install cargo gcc, or rustup)")
    # rustup's cargo is there for every user, and does nothing for one who has installed no toolchain
    tried = subprocess.run(["cargo", "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise RustMissing(f"cargo does not run: {tried.stderr.strip().partition(chr(10))[0]}")
    files = sources(made_from)
    home = cache.home(made_from.name, files, lambda place, lock: _build(files, place, lock), BUILD_TIMEOUT)
    return home / "peer"


def _build(files: Sequence[Path], place: Path, lock: int) -> None:
    for source in files:
        target = place / "build" / ("src" if source.suffix == ".rs" and source.name != "build.rs" else "") / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    lock_file = place / "build" / "Cargo.lock"
    lock_file.write_text(with_registry(lock_file.read_text(), _registry(place / "probe", lock)))
    # Crates outlive a change of the peer's own code: what has been compiled for these versions stays in the cache.
    environment = {"CARGO_TARGET_DIR": str(cache.directory() / "rust-target"), "CARGO_INCREMENTAL": "0"}
    cache.run(["cargo", "build", "--release", "--locked"], place / "build", lock, BUILD_TIMEOUT, environment)
    shutil.copy2(Path(environment["CARGO_TARGET_DIR"]) / "release" / "peer", place / "peer")
    shutil.rmtree(place / "build")
    shutil.rmtree(place / "probe")


def _registry(probe: Path, lock: int) -> str:
    """The registry's name as this machine's cargo writes it into lock files."""
    (probe / "src").mkdir(parents=True)
    (probe / "Cargo.toml").write_text(PROBE)
    (probe / "src" / "lib.rs").touch()
    cache.run(["cargo", "generate-lockfile"], probe, lock, BUILD_TIMEOUT)
    found = re.search(r'^source = "(.+)"$', (probe / "Cargo.lock").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("cargo generate-lockfile names no source of a crate")
    return found[1]


def with_registry(text: str, registry: str) -> str:
    """The lock file as cargo wants it: ours leaves out where crates come from. Those with a checksum are from there."""
    return re.sub(r"^checksum = ", lambda _: f'source = "{registry}"\nchecksum = ', text, flags=re.MULTILINE)


def without_registry(text: str) -> str:
    """The lock file as it is committed: versions and checksums, no address."""
    return re.sub(r'^source = ".+"\n', "", text, flags=re.MULTILINE)


@contextlib.asynccontextmanager
async def rust_peer(
    *,
    listen: Sequence[str] = (),
    agent_version: str | None = None,
    protocols: Sequence[str] | None = None,
    seed: str | None = None,
    name: str = "rust peer",
    made_from: Path = HERE,
    **options: Any,
) -> AsyncIterator[Peer]:
    """A running rust-libp2p peer; the parameters are `js_peer`'s."""
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


@contextlib.asynccontextmanager
async def fabstir_node(
    *, listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",), idle_timeout: int | None = None, **options: Any
) -> AsyncIterator[Peer]:
    """A peer that is what the Fabstir node is on the network; `idle_timeout` (ms) is 120 s where not given."""
    async with rust_peer(
        listen=listen, name="fabstir node", fabstirNode=True, idleTimeout=idle_timeout, **options
    ) as peer:
        yield peer


if __name__ == "__main__":  # `python -m tests.interop.rustpeer` builds, and says what to run
    print(ensure_built())
