"""Names to addresses, before any dial: ``dns``, ``dns4`` and ``dns6`` by the system (so the hosts file counts),
``dnsaddr`` by its TXT records (multiformats/multiaddr, DNSADDR.md). LAB.md, trap 12."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import dns.asyncresolver
import dns.exception
import trio

from fabstird.p2p.addresses import Address, AddressError, from_endpoint, parse

MAX_ADDRESSES = 32  # of one name; a hostile zone must not make us dial for ever
MAX_LOOKUPS = 32  # of names, for the same reason
MAX_DEPTH = 4  # of dnsaddr records that name further names


class ResolveError(Exception):
    """The name could not be resolved; the message says which and why."""


async def resolve(address: Address, *, resolver: dns.asyncresolver.Resolver | None = None) -> list[Address]:
    """The addresses of kind ip4 and ip6 behind ``address``, each once, at most `MAX_ADDRESSES`.

    Raises `ResolveError`; the caller brings the deadline.
    """
    search = _Search(resolver)
    await search.follow(address, MAX_DEPTH)
    if not search.found:
        words = search.problems[0] if search.problems else f"{address.host} has no address that this node can dial"
        raise ResolveError(words)
    return list(search.found.values())[:MAX_ADDRESSES]


@dataclass(slots=True)
class _Search:
    """What one `resolve` has found. A name among others that cannot be resolved is a problem only if all are."""

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
    families = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}
    try:
        answers = await trio.socket.getaddrinfo(
            address.host,
            address.port,
            family=families.get(address.kind, trio.socket.AF_UNSPEC),
            type=trio.socket.SOCK_STREAM,
        )
    except OSError as error:
        raise ResolveError(f"cannot resolve {address.host}: {error.strerror or error}") from error
    except UnicodeError as error:
        raise ResolveError(f"cannot resolve {address.host}: not a valid name") from error
    return [
        replace(from_endpoint(str(answer[4][0]), address.port, address.transport), peer_id=address.peer_id)
        for answer in answers
    ]


async def _dnsaddr(address: Address, resolver: dns.asyncresolver.Resolver | None) -> list[Address]:
    name = f"_dnsaddr.{address.host}"
    try:
        resolver = resolver or dns.asyncresolver.get_default_resolver()
        answer = await resolver.resolve(name, "TXT")
    except dns.exception.DNSException as error:
        raise ResolveError(f"cannot resolve {name}: {error}") from error
    records = []
    for record in answer:
        text = b"".join(record.strings).decode("utf-8", "replace")
        if not text.startswith("dnsaddr="):
            continue
        try:
            parsed = parse(text.removeprefix("dnsaddr="))
        except AddressError:
            continue  # other records name transports that this node does not have; that is what the list is for
        if address.peer_id in (None, parsed.peer_id):
            records.append(parsed)
    return records
