"""Resolves names before a dial: ``dns``, ``dns4`` and ``dns6`` by the system, so the hosts file counts, and ``dnsaddr``
by its TXT records (multiformats/multiaddr, DNSADDR.md)."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fabstird.p2p.wire.addresses import QUIC, Address, AddressError, from_endpoint, parse
from fabstird.threads import imported, look_up

if TYPE_CHECKING:
    import dns.asyncresolver

MAX_ADDRESSES = 32  # of one name; a hostile zone must not keep us dialling for ever
MAX_LOOKUPS = 32  # of names in one resolution, for the same reason
MAX_DEPTH = 4  # of dnsaddr records that point to further names


class ResolveError(Exception):
    """The name could not be resolved; the message says which and why."""


async def resolve(address: Address, *, resolver: dns.asyncresolver.Resolver | None = None) -> list[Address]:
    """The ip4 and ip6 addresses behind ``address``, without duplicates, at most `MAX_ADDRESSES`. The caller sets the
    deadline.

    Raises `ResolveError`.
    """
    search = _Search(resolver)
    await search.follow(address, MAX_DEPTH)
    if not search.found:
        words = search.problems[0] if search.problems else f"{address.host} has no address that this node can dial"
        raise ResolveError(words)
    return list(search.found.values())[:MAX_ADDRESSES]


@dataclass(slots=True)
class _Search:
    """The results of one `resolve`. A name that cannot be resolved is an error only if no other can."""

    resolver: dns.asyncresolver.Resolver | None
    found: dict[str, Address] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    lookups: int = 0

    async def follow(self, address: Address, depth: int) -> None:
        if address.kind in ("ip4", "ip6"):
            self.found.setdefault(str(address), address)
            return
        if len(self.found) >= MAX_ADDRESSES or self.lookups >= MAX_LOOKUPS:
            return
        self.lookups += 1
        try:
            if address.kind != "dnsaddr":
                behind = await _system(address)
            elif depth > 0:
                behind = await _dnsaddr(address, self.resolver)
            else:
                raise ResolveError(f"the dnsaddr records of {address.host} are nested more than {MAX_DEPTH} deep")
        except ResolveError as error:
            self.problems.append(str(error))
            return
        for one in behind:
            await self.follow(one, depth - 1)


async def _system(address: Address) -> list[Address]:
    families = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    try:
        answers = await look_up(address.host, address.port, families.get(address.kind, socket.AF_UNSPEC))
    except OSError as error:
        raise ResolveError(f"cannot resolve {address.host}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise ResolveError(f"cannot resolve {address.host}: not a valid name") from error
    return [
        replace(
            from_endpoint(str(answer[4][0]), address.port, address.transport),
            peer_id=address.peer_id,
            name=address.host,
            sni=(address.sni or address.host.rstrip(".")) if address.transport == "wss" else None,
        )
        for answer in answers
    ]


async def _dnsaddr(address: Address, resolver: dns.asyncresolver.Resolver | None) -> list[Address]:
    name = f"_dnsaddr.{address.host}"
    txt = await imported("fabstird.p2p.net.txt")
    try:
        texts = await txt.texts(name, resolver)
    except txt.NoAnswer as error:
        raise ResolveError(f"cannot resolve {name}: {error}") from error
    records = []
    for encoded in texts:
        text = encoded.decode("utf-8", "replace")
        if not text.startswith("dnsaddr="):
            continue
        try:
            parsed = parse(text.removeprefix("dnsaddr="))
        except AddressError:
            continue  # records with unsupported transports are usual: a dnsaddr lists all kinds
        if parsed.transport == QUIC:
            continue  # dialled only when named explicitly; the same peers listen on TCP
        if address.peer_id in (None, parsed.peer_id):
            records.append(parsed)
    return records
