"""What takes long to make is made once in a run of the tests, by whichever of its processes is the first to need it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xdist


def made_once(request: pytest.FixtureRequest, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which `make` has filled; it gets an empty one beside it. Those who come meanwhile wait for
    it, and find nothing where it failed: they try for themselves. Whoever uses the folder leaves it as it is."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    shared = factory.getbasetemp()
    if xdist.is_xdist_worker(request):
        shared = shared.parent  # each worker has a folder of its own in that of the run
    place, new = shared / name, shared / f"{name}.new"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make(new)
            new.rename(place)
    return place
