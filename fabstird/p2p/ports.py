"""The ports chosen for listen addresses with port 0, kept in the data directory. Other nodes, firewalls and routers
know a node by its port, so a restart should not change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from fabstird.datadir import write_whole
from fabstird.log.logger import get_logger
from fabstird.stored import VERSION, Stored, decode, encode, load
from fabstird.threads import on_disk

log = get_logger("p2p.ports")

FILE = "ports.json"
MAX_ADDRESSES = 64


class _File(Stored):
    ports: dict[str, list[int]]


class Ports:
    """Ports by listen address as configured; an address listed several times has several ports."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._ports: dict[str, list[int]] = {}

    async def load(self) -> None:
        """Read the file; a damaged one is set aside with a warning."""
        stored = await on_disk(self._read)
        self._ports = stored.ports if stored is not None else {}

    def _read(self) -> _File | None:
        return load(
            self.path,
            lambda content: decode(content, _File),
            log,
            unreadable="the ports of the last run cannot be read; others are chosen",
            damaged="the ports of the last run are damaged; others are chosen",
            clock=self._clock,
        )

    def known(self) -> dict[str, list[int]]:
        return {text: [port for port in ports if 0 < port < 65536] for text, ports in self._ports.items()}

    async def keep(self, chosen: Iterable[tuple[str, int]]) -> None:
        """Save the ports in use now. A failure to write is logged."""
        ports: dict[str, list[int]] = {}
        for text, port in chosen:
            ports.setdefault(text, []).append(port)
        others = {text: old for text, old in self._ports.items() if text not in ports}
        merged = dict(islice((ports | others).items(), MAX_ADDRESSES))
        if merged == self._ports:
            return
        self._ports = merged
        try:
            await on_disk(write_whole, self.path, encode(_File(VERSION, merged)))
        except OSError as error:
            log.warning("the ports cannot be kept; a restart chooses others", file=str(self.path), error=error.strerror)
