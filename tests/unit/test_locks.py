"""The locks name everything that is installed, on every Python that is promised, with hashes and without a place."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def entries(lock: Path) -> list[str]:
    """Each requirement with its hashes, as one line."""
    text = "\n".join(line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#"))
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def pins(lock: Path) -> dict[str, Requirement]:
    found = [Requirement(entry.split("--hash")[0].strip()) for entry in entries(lock)]
    return {canonicalize_name(one.name): one for one in found}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_entry_is_one_version_with_its_hashes_and_no_place(lock: Path) -> None:
    for entry in entries(lock):
        assert re.fullmatch(
            r"[a-z0-9][a-z0-9.-]*==[0-9][^ ;]*( +; [^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+ *", entry
        ), entry
    assert not re.search(r"://|--index|--find-links|--trusted|\bfile:", lock.read_text())


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("name", "extras"), [("runtime", {"daemon"}), ("test", {"daemon", "test"})])
def test_a_lock_has_all_that_is_asked_for(name: str, extras: set[str], python: str) -> None:
    """Ours and what each of those asks for in turn, as the installed packages tell it, on each Python."""
    locked = pins(ROOT / "locks" / f"{name}.txt")
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0", "extra": ""}

    def applies(marker: Marker | None) -> bool:
        return marker is None or marker.evaluate(environment)

    def asked_by(distribution: str) -> Iterator[Requirement]:
        try:
            found = importlib.metadata.requires(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return  # only another Python needs it
        yield from (one for one in map(Requirement, found) if applies(one.marker))

    waiting = [Requirement(one) for one in PROJECT["dependencies"]]
    waiting += [Requirement(one) for extra in extras for one in PROJECT["optional-dependencies"][extra]]
    seen = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in locked, f"{wanted} is in no lock: make lock"
        assert applies(locked[name].marker), f"{locked[name]} is left out on Python {python}"
        (version,) = locked[name].specifier
        assert wanted.specifier.contains(version.version, prereleases=True), f"{wanted}, but {locked[name]}: make lock"
        if name not in seen:
            seen.add(name)
            waiting += asked_by(name)


def test_the_locks_agree() -> None:
    test, runtime, build = (pins(ROOT / "locks" / f"{name}.txt") for name in ("test", "runtime", "build"))
    assert runtime.items() <= test.items(), "what is tested is what runs"
    assert all(test.get(name, one).specifier == one.specifier for name, one in build.items())
    assert not runtime.keys() & {"pytest", "mypy", "ruff", "hypothesis"}


def test_what_is_installed_here_is_what_is_locked() -> None:
    locked = pins(ROOT / "locks" / "test.txt")
    installed = {canonicalize_name(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()}
    differing = {
        name: installed[name]
        for name, one in locked.items()
        if name in installed and installed[name] not in one.specifier
    }
    assert not differing, "make .venv/.installed-test"
