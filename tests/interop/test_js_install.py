"""Installing the js peer: whole or not at all, whoever is killed and however many come at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import jspeer

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("js")]

HERE = Path(__file__).resolve().parent
INSTALL = """
import pathlib, sys
from tests.interop import jspeer
print(*jspeer.ensure_installed(pathlib.Path(sys.argv[1])), sep="\\n")
"""
BOUND = 300.0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # 240 MB that pytest would keep


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Of Node alone, as the peer's have it: 100 MB, and a quarter of the time that all its packages take."""
    folder = tmp_path / "js"
    folder.mkdir()
    for name in jspeer.MANIFESTS:
        whole = json.loads((jspeer.HERE / name).read_text())
        for manifest in (whole, whole.get("packages", {}).get("", {})):
            manifest.pop("dependencies", None)
        if "packages" in whole:
            kept = {"", *(f"node_modules/{node}" for node in jspeer.PLATFORMS.values())}
            whole["packages"] = {path: package for path, package in whole["packages"].items() if path in kept}
        (folder / name).write_text(json.dumps(whole))
    return folder


def start_install(cache: Path, manifests: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", INSTALL, str(manifests)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_install_counts_for_nothing_and_two_at_once_make_one(cache: Path, manifests: Path) -> None:
    place = cache / "fabstir-interop"
    with start_install(cache, manifests) as killed:
        deadline = time.monotonic() + BOUND
        while not list(place.glob("js-*.new-*/node_modules")):  # npm is at work
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed.kill()
    assert not [path for path in place.glob("js-*") if path.is_dir() and ".new-" not in path.name]

    with start_install(cache, manifests) as one, start_install(cache, manifests) as two:
        answers = [process.communicate(timeout=BOUND) for process in (one, two)]
        assert (one.returncode, two.returncode) == (0, 0), answers
    assert answers[0][0] == answers[1][0]
    node, script = map(Path, answers[0][0].split())
    assert subprocess.check_output([node, "--version"], text=True).startswith("v22.")
    for source in (HERE / "js").glob("*.mjs"):
        assert (script.parent / source.name).read_bytes() == source.read_bytes()
    homes = [path.name for path in place.iterdir() if path.is_dir()]
    assert homes == [node.relative_to(place).parts[0]], "a killed install's remains stayed behind"


def test_the_lock_file_names_no_download_addresses() -> None:
    text = (jspeer.HERE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert "registry" not in text


def test_a_machine_without_node_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(jspeer.JsMissing, match="node and npm not found"):
        jspeer.ensure_installed()
