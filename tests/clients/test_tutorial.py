"""docs/tutorials/first-app-typescript.md, followed as a reader would, in a project with the package installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.clients.toolbox import Tools
from tests.support.pages import Shell, follow


def test_a_first_app_in_typescript(tools: Tools, installed: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(installed / "node_modules")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "node").symlink_to(shutil.which(tools.node("22")) or tools.node("22"))
    with Shell(tmp_path / "home", tmp_path) as shell:
        shell.run("PATH=$PWD/bin:$PATH")
        assert follow("tutorials/first-app-typescript.md", {"ada": shell}, tmp_path) == 11
