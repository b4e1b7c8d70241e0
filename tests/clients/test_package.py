"""The tarball: what is in it, what the checkers of packages say, and whether every kind of project takes it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.clients import toolbox
from tests.clients.toolbox import HERE, Tools

TYPES = HERE / "types"
COMMON = {"strict": True, "noEmit": True, "target": "ES2022"}
# Each kind of project, by its compiler options. Only those of Node have Node's types.
PROJECTS = {
    "commonjs": {"module": "Node16", "moduleResolution": "Node16", "types": ["node"], "lib": ["ES2022"]},
    "esm": {"module": "NodeNext", "moduleResolution": "NodeNext", "types": ["node"], "lib": ["ES2022"]},
    "bundler": {"module": "ESNext", "moduleResolution": "Bundler", "types": [], "lib": ["ES2022", "DOM"]},
    "old": {"module": "CommonJS", "moduleResolution": "Node10", "types": ["node"], "lib": ["ES2022"]},
}


def test_what_is_in_the_tarball(tarball: Path) -> None:
    with tarfile.open(tarball) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
        sizes = sum(member.size for member in packed.getmembers())
    package = json.loads((toolbox.PACKAGE / "package.json").read_text())
    for conditions in (package["exports"][path] for path in (".", "./p2p", "./bridge")):
        for targets in conditions.values():
            assert {target.removeprefix("./") for target in targets.values()} <= names
    assert {name.split("/")[0] for name in names} == {
        "dist", "package.json", "README.md", "LICENSE-MIT", "LICENSE-APACHE",
    }  # fmt: skip
    assert not [name for name in names if name.startswith("dist/browser/node/")]
    assert sizes < 2_000_000


def test_nothing_for_browsers_needs_node(tarball: Path) -> None:
    with tarfile.open(tarball) as packed:
        for name in packed.getnames():
            if name.startswith("package/dist/browser/"):
                file = packed.extractfile(name)
                assert file is not None
                assert b'"node:' not in file.read(), name


def test_publint_finds_no_fault(tools: Tools, installed: Path) -> None:
    told = toolbox.run(
        [*tools.program("publint"), "--strict", str(installed / "node_modules" / "fabstir-client")], installed
    )
    assert "All good" in told, told


def test_are_the_types_wrong(tools: Tools, tarball: Path) -> None:
    told = toolbox.run([*tools.program("attw"), str(tarball), "--no-emoji"], tarball.parent)
    assert "No problems found" in told, told


@pytest.mark.parametrize("kind", PROJECTS)
def test_a_strict_project_compiles_and_mistakes_do_not(tools: Tools, tarball: Path, tmp_path: Path, kind: str) -> None:
    """`right.ts` must compile; each line of `wrong.ts` is marked as an error, and one that is none would be one."""
    kinds = {"esm": {"type": "module"}, "bundler": {"type": "module"}}
    place = toolbox.project(tools, tarball, tmp_path / "project", **kinds.get(kind, {}))
    for name in ("right.ts", "wrong.ts"):
        (place / name).write_text((TYPES / name).read_text())
    files = ["right.ts", "wrong.ts"]
    if kind != "bundler":
        (place / "node.ts").write_text((TYPES / "node.ts").read_text())
        files.append("node.ts")
    config = {"compilerOptions": {**COMMON, **PROJECTS[kind]}, "files": files}
    (place / "tsconfig.json").write_text(json.dumps(config))
    toolbox.run([*tools.program("tsc"), "-p", "tsconfig.json"], place)


def test_a_bundle_for_a_page_and_one_for_node(tools: Tools, installed: Path, tmp_path: Path) -> None:
    source = installed / "bundled.mjs"
    source.write_text(
        'import { connect } from "fabstir-client"; import { P2PClient } from "fabstir-client/p2p";\n'
        'import { P2PBridgeClient } from "fabstir-client/bridge"; console.log(connect, P2PClient, P2PBridgeClient);\n'
    )
    esbuild = [*tools.program("esbuild"), str(source), "--bundle", "--log-level=warning"]
    for platform in ("browser", "node"):
        out = tmp_path / f"{platform}.js"
        toolbox.run([*esbuild, f"--platform={platform}", f"--outfile={out}"], installed)
        assert ("node:net" in out.read_text()) == (platform == "node")
