"""Names to addresses, before any dial: ``dns``, ``dns4`` and ``dns6`` by the system (so the hosts file counts),
``dnsaddr`` by its TXT records (multiformats/multiaddr, DNSADDR.md). LAB.md, trap 12."""

from __future__ import annotations

from dataclasses import replace

import dns.asyncresolver
import dns.exception
import trio

from fabstird.p2p.addresses import Address, AddressError, from_endpoint, parse

MAX_ADDRESSES = 32  # of one name; a hostile zone must not make us dial for ever
MAX_DEPTH = 4  # of dnsaddr records that name further names


class ResolveError(Exception):
    """The name could not be resolved; the message says which and why."""


async def resolve(address: Address, *, resolver: dns.asyncresolver.Resolver | None = None) -> list[Address]:
    """The addresses of kind ip4 and ip6 behind ``address``, each once, at most `MAX_ADDRESSES`.

    Raises `ResolveError`; the caller brings the deadline.
    """
    found: dict[str, Address] = {}
    await _resolve(address, found, resolver, MAX_DEPTH)
    if not found:
        raise ResolveError(f"{address.host} has no address that this node can dial")
    return list(found.values())[:MAX_ADDRESSES]


async def _resolve(
    address: Address, found: dict[str, Address], resolver: dns.asyncresolver.Resolver | None, depth: int
) -> None:
    if len(found) >= MAX_ADDRESSES:
        return
    if address.kind in ("ip4", "ip6"):
        found.setdefault(str(address), address)
    elif address.kind == "dnsaddr":
        if depth == 0:
            raise ResolveError(f"the dnsaddr records of {address.host} are nested more than {MAX_DEPTH} deep")
        for record in await _dnsaddr(address, resolver):
            await _resolve(record, found, resolver, depth - 1)
    else:
        for resolved in await _system(address):
            found.setdefault(str(resolved), resolved)


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
