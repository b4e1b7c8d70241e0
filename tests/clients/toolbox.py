"""What the tests of the TypeScript client run: three versions of Node, the compiler and checkers, installed once into a
cache outside the repository; and the package itself, built and packed as npm would publish it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.interop import cache

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "typescript"
HERE = Path(__file__).resolve().parent
MANIFESTS = ("package.json", "package-lock.json")
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}
NODES = ("18", "20", "22")
INSTALL_TIMEOUT = 900.0  # seconds, for one install and for the wait while another process installs
BUILD_TIMEOUT = 300.0


class ToolsMissing(cache.ToolchainMissing):
    pass


class Tools:
    """The cache's folder, with `node_modules` in it."""

    def __init__(self, home: Path) -> None:
        self.modules = home / "node_modules"

    def node(self, major: str = "22") -> str:
        return str(self.modules / f"node{major}-{MACHINES[platform.machine()]}" / "bin" / "node")

    def program(self, name: str) -> list[str]:
        """A program of a package, run by Node 22."""
        return [self.node(), str((self.modules / ".bin" / name).resolve())]


def ensure_tools() -> Tools:
    """Installed first where needed. Blocks; raises ToolsMissing or RuntimeError."""
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        raise ToolsMissing(f"npm has no Node for {platform.system()} {platform.machine()}")
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    if lacking:
        raise ToolsMissing(f"{' and '.join(lacking)} not found (on Debian: apt-get install nodejs npm)")
    sources = [HERE / "tools" / name for name in MANIFESTS]
    return Tools(cache.home("typescript", sources, _install, INSTALL_TIMEOUT))


def _install(place: Path, lock: int) -> None:
    for name in MANIFESTS:
        shutil.copyfile(HERE / "tools" / name, place / name)
    install = ["npm", "ci", "--ignore-scripts", "--include=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    cache.run(install, place, lock, INSTALL_TIMEOUT)
    for major in NODES:
        version = cache.run([Tools(place).node(major), "--version"], place, lock, INSTALL_TIMEOUT)
        if not version.startswith(f"v{major}."):
            raise RuntimeError(f"the installed node is {version}, not {major}.x")


def run(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, timeout: float = BUILD_TIMEOUT
) -> str:
    """What the command printed; an AssertionError with all of it where it failed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "NODE_"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "NO_COLOR": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-8000:]}"
    return done.stdout


def pack(tools: Tools, place: Path) -> Path:
    """Build a copy of the package in `place`, and pack it. The tarball."""
    copy = place / "package"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (copy / "node_modules").symlink_to(tools.modules)
    told = run(["npm", "pack", "--json", "--foreground-scripts=false", "--loglevel=error"], copy)
    [packed] = json.loads(told[told.index("[") :])
    return copy / str(packed["filename"])


def project(tools: Tools, tarball: Path, place: Path, **package: object) -> Path:
    """A fresh project with the tarball installed by npm, and with the compiler within reach."""
    place.mkdir()
    (place / "package.json").write_text(json.dumps({"name": "fresh", "version": "1.0.0", "private": True, **package}))
    install = ["npm", "install", "--offline", "--no-audit", "--no-fund", "--loglevel=error", str(tarball)]
    run(install, place)
    assert [path.name for path in (place / "node_modules").iterdir() if path.name != ".package-lock.json"] == [
        "fabstir-client"
    ], "a dependency was installed"
    (place / "node_modules" / "@types").symlink_to(tools.modules / "@types")
    (place / "node_modules" / "undici-types").symlink_to(tools.modules / "undici-types")
    return place


PYTHON = {"FABSTIR_TEST_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
