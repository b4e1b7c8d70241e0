"""What the package shares with the daemon is the same: types, version, pins. None of this needs Node."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from fabstir_client import __version__
from tests.clients.toolbox import HERE, PACKAGE, ROOT


def test_the_types_are_made_from_the_openrpc_document() -> None:
    check = [sys.executable, str(ROOT / "scripts" / "typescript-types"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_version_is_the_daemons() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    lock = json.loads((PACKAGE / "package-lock.json").read_text())
    assert package["version"] == lock["version"] == lock["packages"][""]["version"] == __version__
    assert f'VERSION = "{__version__}"' in (PACKAGE / "src" / "version.ts").read_text()


def test_it_has_no_dependency_and_its_tools_are_those_of_the_tests() -> None:
    package = json.loads((PACKAGE / "package.json").read_text())
    assert not [name for name in package if "ependencies" in name and name != "devDependencies"]
    tools = json.loads((HERE / "tools" / "package.json").read_text())["dependencies"]
    assert package["devDependencies"].items() <= tools.items()
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in tools.values())


def test_the_licences_are_those_of_the_whole() -> None:
    for name in ("LICENSE-MIT", "LICENSE-APACHE"):
        assert (PACKAGE / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_lock_files_name_no_download_addresses() -> None:
    for lock in (PACKAGE / "package-lock.json", HERE / "tools" / "package-lock.json"):
        text = lock.read_text()
        assert '"resolved"' not in text
        assert "registry" not in text


def test_no_argument_that_may_be_left_out_comes_before_one_that_may_not() -> None:
    """TypeScript does not compile such a list, and without Node nothing else here would tell."""
    for line in (PACKAGE / "src" / "generated" / "api.ts").read_text().splitlines():
        found = re.fullmatch(r"    args: \[(.*)\];", line)
        kinds = re.findall(r"(?:^|, )[A-Za-z]+(\??): ", found[1]) if found else []
        assert kinds == sorted(kinds), line
