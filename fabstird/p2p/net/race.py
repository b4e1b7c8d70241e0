"""Races several addresses of a peer: dials begin one after another with a short delay, and the first to connect wins
(RFC 8305, Happy Eyeballs).

One at a time, a dead address in front would cost a whole dial's deadline; all at once, a peer with thirty addresses
would get thirty connections. So the next dial begins when the last has failed, or has not connected within `STAGGER`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Generic, Protocol, TypeVar

import trio

from fabstird.p2p.net.dial_errors import DialError, DialLimit
from fabstird.p2p.wire.addresses import Address

STAGGER = 0.25  # seconds; RFC 8305, section 5


class Ending(Protocol):
    """The result of a race: a connection, which can be ended."""

    def end(self, reason: str) -> None: ...


A = TypeVar("A", bound=Hashable)
L = TypeVar("L", bound=Ending)


class NoneConnected(Exception, Generic[A]):
    """Every address failed. ``errors`` has the error of each, in the order in which their dials began."""

    def __init__(self, errors: dict[A, DialError]) -> None:
        super().__init__("; ".join(f"{address}: {error}" for address, error in errors.items()))
        self.errors = errors

    @property
    def last(self) -> DialError:
        """The error of the dial that began last."""
        return next(reversed(self.errors.values()))


async def race(addresses: Sequence[A], dial: Callable[[A], Awaitable[L]], *, stagger: float = STAGGER) -> L:
    """Dial addresses until one connects. The other dials are cancelled, and have ended when this returns.

    Args:
        addresses: In the order of preference.
        dial: Dials one address.
        stagger: Seconds that a dial has before the next one begins.

    Returns:
        The result of ``dial`` for the first address that connects. If a second connects at the same moment, it is
        ended.

    Raises:
        NoneConnected: Every dial raised `DialError`, or one raised `DialLimit`, after which no further dial begins. Any
            other error is raised as it is.
    """
    won: list[L] = []
    errors: dict[A, DialError] = {}
    broken: list[Exception] = []  # raised below, outside the nursery: no exception group leaves this function
    begun = dict.fromkeys(addresses)

    async def attempt(address: A, failed: trio.Event) -> None:
        try:
            result = await dial(address)
        except DialError as error:
            errors[address] = error
            failed.set()
            return
        except Exception as error:  # noqa: BLE001 - a defect, for the caller to handle
            broken.append(error)
        else:
            if won:
                result.end("duplicate")
            else:
                won.append(result)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for address in begun:
            if any(isinstance(error, DialLimit) for error in errors.values()):
                break
            failed = trio.Event()
            nursery.start_soon(attempt, address, failed)
            with trio.move_on_after(stagger):
                await failed.wait()
    if won:
        return won[0]
    if broken:
        raise broken[0]
    raise NoneConnected({address: errors[address] for address in begun if address in errors})


def in_order(addresses: Iterable[Address]) -> list[Address]:
    """The order in which endpoints are dialled: the two IP families in turn, each in the order given."""
    known = list(addresses)
    families = [[one for one in known if (one.kind == known[0].kind) is same] for same in (True, False)]
    return [address for address in chain(*zip_longest(*families)) if address is not None]
