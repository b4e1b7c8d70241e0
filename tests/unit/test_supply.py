"""The bill of materials is what the lock says, and an audit that looked nothing up never sounds like a good one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.unit.test_locks import ROOT, pins

ADR = ROOT / "docs" / "adr" / "0023-locks.md"


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_bill_of_materials_is_the_runtime_lock() -> None:
    printed = script("sbom").stdout
    assert printed == script("sbom").stdout
    bill = json.loads(printed)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    locked = pins(ROOT / "locks" / "runtime.txt")
    assert {one["name"]: f"=={one['version']}" for one in bill["components"]} == {
        name: str(one.specifier) for name, one in locked.items()
    }
    hashes = [entry["content"] for one in bill["components"] for entry in one["hashes"]]
    assert hashes == [
        line.partition("--hash=sha256:")[2].removesuffix(" \\")
        for line in (ROOT / "locks" / "runtime.txt").read_text().splitlines()
        if "--hash=" in line
    ]
    brought = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert {"libp2p", "trio", "msgspec"} <= set(brought["fabstir"])
    assert "grpcio" in brought["libp2p"]
    assert {name for names in brought.values() for name in names} == locked.keys(), "somebody brings each of them"


@pytest.mark.parametrize(
    ("dependencies", "status", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 packages looked up, 0 known vulnerabilities"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: CVE-1, mended in 2",
        ),
        ([{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}], 2, "NOT AUDITED: b"),
        ([{"name": "a", "skip_reason": "not found"}], 2, "NOT AUDITED, no database of vulnerabilities can be reached"),
        (None, 2, "no database of vulnerabilities can be reached from here\n         pypi: cut off"),
    ],
    ids=["clean", "known", "half", "a mirror that knows nothing", "no network"],
)
def test_an_audit_says_what_it_did_not_look_up(
    dependencies: list[object] | None, status: int, words: str, tmp_path: Path
) -> None:
    """Over a stand-in for pip-audit, since no test may need the network: the forms are those of 2.10."""
    program = tmp_path / "bin" / "pip-audit"
    program.parent.mkdir()
    if dependencies is None:
        program.write_text("#!/bin/sh\necho cut off >&2; exit 1\n")
    else:
        (tmp_path / "answer").write_text(json.dumps({"dependencies": dependencies, "fixes": []}))
        program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
    program.chmod(0o755)
    done = script("audit", str(tmp_path), "locks/runtime.txt")
    assert done.returncode == status
    assert words in done.stdout + done.stderr


IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, sys
import fabstird, fabstir_client
for package in fabstird, fabstir_client:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__") and ".testing" not in module.name:
            importlib.import_module(module.name)
brought = importlib.metadata.packages_distributions()
print(json.dumps(sorted({one for name in list(sys.modules) for one in brought.get(name.partition(".")[0], ())})))
"""


def test_what_nobody_imports_is_named_in_a_decision() -> None:
    """Each distribution of the table is installed, and in no process that has loaded all of ours."""
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True, timeout=120)
    imported = {canonicalize_name(one) for one in json.loads(ran.stdout)}
    assert {"trio", "quart", "protobuf"} <= imported
    table = re.findall(r"^\| ([a-z][^|]*?) (?:\([^)]*\) )?\| libp2p", ADR.read_text(), re.MULTILINE)
    named = {canonicalize_name(name) for names in table for name in names.split(", ")}
    assert len(named) == 25
    assert named <= pins(ROOT / "locks" / "runtime.txt").keys()
    assert not named & imported
