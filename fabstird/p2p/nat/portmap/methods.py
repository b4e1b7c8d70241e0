"""The ways to ask a router for a mapping, each with the same face."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from fabstird.p2p.nat.portmap import natpmp, pcp
from fabstird.p2p.nat.portmap.igd import Igd
from fabstird.p2p.nat.portmap.mappings import LEASE, Grant, Kind, MappingError, MethodName, Port
from fabstird.p2p.nat.portmap.router import Router, ask


class Method(Protocol):
    """One way, and one router."""

    @property
    def name(self) -> MethodName: ...

    @property
    def unsure(self) -> Collection[Port]:
        """Ports that the router was asked to map, and may have, since its answer was not waited for or understood."""

    async def map(self, port: int, external_port: int, kind: Kind = "tcp") -> Grant:
        """Map a port, or renew that; ``external_port`` is a wish. Raises `MappingError`."""

    async def unmap(self, grant: Grant) -> None:
        """Raises `MappingError`."""

    async def withdraw(self, here: Port) -> None:
        """Have the router forget one of `unsure`. Raises `MappingError`."""


class Pcp:
    """``secret`` is this node's: a node that was killed and comes back renews its own mapping, and nobody else can."""

    name: MethodName = "pcp"

    def __init__(self, router: Router, secret: bytes) -> None:
        self._router = router
        self._secret = secret
        self.unsure: set[Port] = set()

    async def map(self, port: int, external_port: int, kind: Kind = "tcp") -> Grant:
        here = Port(kind, port)
        with _until_answered(self.unsure, here):
            said = await self._ask(here, external_port, LEASE)
        return Grant(port, said.external, said.external_port, said.lease, self.name, kind)

    async def unmap(self, grant: Grant) -> None:
        await self.withdraw(grant.here)

    async def withdraw(self, here: Port) -> None:
        await self._ask(here, 0, 0)

    async def _ask(self, here: Port, external_port: int, lease: int) -> pcp.Mapped:
        router, nonce, (kind, port) = self._router, self._nonce(here), here
        question = pcp.map_request(router.local, port, external_port, lease, nonce, kind)
        return await ask(router, question, partial(pcp.read_mapped, port=port, nonce=nonce, kind=kind))

    def _nonce(self, here: Port) -> bytes:
        about = f"{self._router.local} {here}".encode()
        return hashlib.blake2b(about, key=self._secret, digest_size=pcp.NONCE, person=b"port mapping").digest()


class NatPmp:
    name: MethodName = "nat-pmp"

    def __init__(self, router: Router) -> None:
        self._router = router
        self.unsure: set[Port] = set()

    async def map(self, port: int, external_port: int, kind: Kind = "tcp") -> Grant:
        external = await ask(self._router, natpmp.ADDRESS_REQUEST, natpmp.read_address)
        here = Port(kind, port)
        with _until_answered(self.unsure, here):
            said = await self._ask(here, external_port, LEASE)
        return Grant(port, external, said.external_port, said.lease, self.name, kind)

    async def unmap(self, grant: Grant) -> None:
        await self.withdraw(grant.here)

    async def withdraw(self, here: Port) -> None:
        await self._ask(here, 0, 0)

    async def _ask(self, here: Port, external_port: int, lease: int) -> natpmp.Mapped:
        kind, port = here
        question = natpmp.map_request(port, external_port, lease, kind)
        return await ask(self._router, question, partial(natpmp.read_mapped, port=port, kind=kind))


@contextmanager
def _until_answered(unsure: set[Port], here: Port) -> Iterator[None]:
    """Whoever is cancelled meanwhile does not know. A router that has said nothing for long has not heard it: the
    kernel tells where it does not listen, and a question is said four times."""
    unsure.add(here)
    try:
        yield
    except MappingError:
        unsure.discard(here)
        raise
    unsure.discard(here)


def methods(router: Router, secret: bytes) -> list[Method]:
    """In the order in which they are tried."""
    return [Pcp(router, secret), NatPmp(router), Igd(router)]
