"""ARCHITECTURE.md is true: what its pictures and tables name is there, and what they call is called."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAEMON = ROOT / "fabstird"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
PICTURES = [picture.strip().splitlines() for picture in re.findall(r"^```mermaid\n(.*?)^```$", TEXT, re.M | re.S)]
PATHS = {"a call": 8, "a peer event": 8, "a stream": 8, "start, dial, retry, stop": 10}  # and the most files of each

NODE = r'(\w+)(?:\["([\w/.]+)"\])?'
ARROW = re.compile(rf"^    {NODE} --> {NODE}$")
PARTICIPANT = re.compile(r"^    participant (\w+) as ([\w/]+)$")
ACTOR = re.compile(r"^    actor (\w+)$")
MESSAGE = re.compile(r"^    (\w+)(-?->>)(\w+): ([\w.]+)$")


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def modules(room: str) -> list[Path]:
    path = DAEMON / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


@cache
def imports(path: Path) -> set[str]:
    """The modules that it imports, late imports included, dotted."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def functions(path: Path) -> set[str]:
    """`name` of each function, `Class.name` of each method."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
            found |= {f"{node.name}.{one.name}" for one in inner}
    return found


def test_there_is_a_picture_of_the_rooms_and_one_of_each_path() -> None:
    assert [picture[0] for picture in PICTURES] == ["flowchart TD", *["sequenceDiagram"] * len(PATHS)]


def rooms() -> tuple[dict[str, str], list[tuple[str, str]]]:
    named: dict[str, str] = {}
    arrows = []
    for line in PICTURES[0][1:]:
        match = ARROW.match(line)
        assert match is not None, line
        for name, room in ((match[1], match[2]), (match[3], match[4])):
            if room is not None:
                assert named.setdefault(name, room) == room
        arrows.append((match[1], match[3]))
    return named, arrows


def test_the_rooms_are_there_and_an_arrow_is_an_import() -> None:
    named, arrows = rooms()
    packages = [path.parent for path in [*DAEMON.glob("*/__init__.py"), *DAEMON.glob("p2p/*/__init__.py")]]
    assert {str(path.relative_to(DAEMON)) for path in packages} - {"p2p"} <= set(named.values()), "each has its place"
    for importing, imported in arrows:
        there = "fabstird." + named[imported].removesuffix(".py").replace("/", ".")
        names = set().union(*(imports(path) for path in modules(named[importing])))
        assert any(name == there or name.startswith(f"{there}.") for name in names), f"{importing} --> {imported}"


@pytest.mark.parametrize("picture", PICTURES[1:], ids=list(PATHS))
def test_what_a_path_calls_is_there_and_is_called(picture: list[str]) -> None:
    files: dict[str, Path] = {}
    actors = set()
    for line in picture[1:]:
        if (actor := ACTOR.match(line)) is not None:
            actors.add(actor[1])
        elif (participant := PARTICIPANT.match(line)) is not None:
            files[participant[1]] = DAEMON / f"{participant[2]}.py"
        else:
            message = MESSAGE.match(line)
            assert message is not None, line
            caller, arrow, called, name = message.groups()
            assert name in functions(files[called]), line
            if caller not in actors:
                word = "handler" if arrow == "-->>" else name.rpartition(".")[2]  # dotted: by the table of methods
                assert re.search(rf"\b{word}\b", files[caller].read_text()), f"{caller} does not name {word}"


@pytest.mark.parametrize(("path", "most"), PATHS.items())
def test_a_path_crosses_few_files(path: str, most: int) -> None:
    [row] = [line for line in section("Four paths").splitlines() if line.startswith(f"| {path}")]
    files = re.findall(r"`([^`]+)`", row)
    assert 0 < len(files) <= most
    assert [name for name in files if not (DAEMON / f"{name}.py").is_file()] == []
    drawn = [m[2] for line in PICTURES[1 + list(PATHS).index(path)] if (m := PARTICIPANT.match(line)) is not None]
    assert set(drawn) == set(files)


def test_where_to_change_what_is_there() -> None:
    rows = [line for line in section("Where to change what").splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 10
    named = [name for row in rows for name in re.findall(r"`([\w./]+/[\w./]+|\w+\.toml)`", row)]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert all(re.search(r"`[\w./]+`", row.split("|")[2]) for row in rows)


@pytest.mark.parametrize("folder", ["fabstird", "fabstir_client"])
def test_the_tree_names_every_part(folder: str) -> None:
    """Each module of the daemon, and each folder of the client."""
    named = set(re.findall(r"\w+", section("The parts")))
    parts = (ROOT / folder).rglob("*.py") if folder == "fabstird" else (ROOT / folder).glob("*/__init__.py")
    names = {path.parent.name if path.stem == "__init__" else path.stem for path in parts} - {"__main__"}
    assert sorted(names - named) == []
