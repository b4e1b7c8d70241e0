"""A release is refused where versions, changelog and metadata do not agree; what is in the tree is ready for one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from fabstir_client._version import __version__
from tests.unit.test_locks import ROOT

VERSIONED = ("fabstir_client/_version.py", "CHANGELOG.md", "scripts/release", "clients/typescript/package.json")
VERSIONED += ("clients/typescript/package-lock.json", "clients/typescript/src/version.ts")


def release(what: str, root: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [str(root / "scripts" / "release"), what]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=kept)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a release looks at, to be spoilt."""
    for name in VERSIONED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## {__version__} - 2026-11-27\n\n- all\n\n## 0.0.1 - 2026\n\n- old\n"
    )
    return tmp_path


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(tree: Path) -> None:
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new, 1))

    return spoil


def test_this_tree_is_ready_but_for_what_is_unreleased() -> None:
    complaints = release("check", ROOT).stderr.splitlines()
    assert [one for one in complaints if not one.startswith('release: CHANGELOG.md begins with "## Unreleased"')] == []
    assert re.search(r"^- ", release("notes", ROOT).stdout, re.MULTILINE)


def test_the_notes_are_those_of_this_version(tree: Path) -> None:
    assert release("notes", tree).stdout.split() == ["-", "all"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (edit("fabstir_client/_version.py", __version__, "9.9.9"), 'CHANGELOG.md begins with "## '),
        (edit("fabstir_client/_version.py", __version__, "1.0.dev1"), "is no release's version"),
        (edit("CHANGELOG.md", f"## {__version__} - ", "## Unreleased"), 'CHANGELOG.md begins with "## Unreleased'),
        (edit("CHANGELOG.md", f"## {__version__} - ", f"## {__version__} - soon "), "DATE"),
        (edit("clients/typescript/package.json", __version__, "0.0.1"), "package.json has another version"),
        (edit("clients/typescript/package-lock.json", __version__, "0.0.1"), "package-lock.json has another version"),
        (edit("clients/typescript/src/version.ts", __version__, "0.0.1"), "version.ts has another version"),
    ],
)
def test_what_does_not_agree_is_refused(tree: Path, spoil: Callable[[Path], None], words: str) -> None:
    assert release("check", tree).returncode == 0
    spoil(tree)
    done = release("check", tree)
    assert done.returncode == 1
    assert words in done.stderr


def test_the_metadata_names_licences_that_are_there_and_no_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT OR Apache-2.0"
    assert all((ROOT / name).read_text().strip() for name in project["license-files"])
    assert "urls" not in project, "scripts/release adds them"
