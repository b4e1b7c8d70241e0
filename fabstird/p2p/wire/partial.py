"""Imports a module deep inside a package without the rest: one of libp2p's, and not the 1,000 others that its packages
import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType


@contextmanager
def parts_of(*packages: str) -> Iterator[None]:
    """Let modules in these packages be imported without running the packages' ``__init__``. Parents come before
    children.

    ``import libp2p.peer.pb.envelope_pb2`` first runs the ``__init__`` of libp2p, of ``libp2p.peer`` and of
    ``libp2p.peer.pb``, which import everything: half a second and 57 MB for a handful of messages. Afterwards the
    packages and their modules are removed from ``sys.modules`` again, so a later import of libp2p in the same process
    is complete. A package that was already imported is used as it is.

    Raises `ModuleNotFoundError`.
    """
    root = packages[0]
    if root in sys.modules:
        yield
        return
    try:
        for name in packages:
            parent = sys.modules.get(name.rpartition(".")[0])
            spec = PathFinder.find_spec(name, parent.__path__ if parent is not None else None)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No package named {name!r}", name=name)
            bare = ModuleType(name)
            bare.__path__ = list(spec.submodule_search_locations)
            sys.modules[name] = bare
        yield
    finally:
        for name in list(sys.modules):
            if name == root or name.startswith(f"{root}."):
                del sys.modules[name]
