"""TXT records from the machine's current name servers.

dnspython takes 0.2 s and 8 MB to import, since it imports HTTP and QUIC. Only ``dnsaddr`` needs it, so `resolve`
imports this module when the first such address is dialled.
"""

from __future__ import annotations

import dns.asyncresolver
import dns.exception

from fabstird.threads import on_disk


class NoAnswer(Exception):
    """There are no such records; the message says why."""


async def texts(name: str, resolver: dns.asyncresolver.Resolver | None = None) -> list[bytes]:
    """The TXT records of ``name``, each with its strings joined. The caller sets the deadline. Raises `NoAnswer`."""
    try:
        if resolver is None:  # read each time: a laptop's name servers change with its network
            resolver = await on_disk(dns.asyncresolver.Resolver)
        answer = await resolver.resolve(name, "TXT")
    except dns.exception.DNSException as error:
        raise NoAnswer(str(error)) from error
    return [b"".join(record.strings) for record in answer]
