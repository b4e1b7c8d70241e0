"""Several addresses of one peer: dialled a little apart, and the first that connects wins (RFC 8305, Happy Eyeballs).

One after another, a dead address in front costs a whole dial's deadline; all at once, a peer with thirty addresses gets
thirty connections. So the next one is begun when the last has failed, or has not connected within `STAGGER`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Generic, TypeVar

import trio

from fabstird.p2p.addresses import Address

STAGGER = 0.25  # seconds; RFC 8305, section 5

A = TypeVar("A", bound=Hashable)
T = TypeVar("T")


class NoneConnected(Exception, Generic[A]):
    """Every address failed. ``errors`` has the error of each that was dialled, in the order in which they began."""

    def __init__(self, errors: dict[A, Exception]) -> None:
        super().__init__("; ".join(f"{address}: {error}" for address, error in errors.items()))
        self.errors = errors

    @property
    def last(self) -> Exception:
        """That of the address which was begun last."""
        return next(reversed(self.errors.values()))


async def race(
    addresses: Sequence[A],
    dial: Callable[[A], Awaitable[T]],
    *,
    expected: type[Exception],
    final: type[Exception],
    spare: Callable[[T], None],
) -> T:
    """What ``dial`` gives for the first address that connects; the others are cancelled, and have ended by then.

    Errors of type ``expected`` are an address's own; one of type ``final`` means that no further address is begun. A
    second connection that comes up in the very moment of the first is given to ``spare``. Raises `NoneConnected`; every
    other error leaves as it is.
    """
    won: list[T] = []
    errors: dict[A, Exception] = {}
    broken: list[Exception] = []  # raised below, outside the nursery: no exception group leaves here
    begun = dict.fromkeys(addresses)

    async def attempt(address: A, failed: trio.Event) -> None:
        try:
            result = await dial(address)
        except expected as error:
            errors[address] = error
            failed.set()
            return
        except Exception as error:  # noqa: BLE001 - a defect, which the caller is told of
            broken.append(error)
        else:
            if won:
                spare(result)
            else:
                won.append(result)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for address in begun:
            if any(isinstance(error, final) for error in errors.values()):
                break
            failed = trio.Event()
            nursery.start_soon(attempt, address, failed)
            with trio.move_on_after(STAGGER):
                await failed.wait()
    if won:
        return won[0]
    if broken:
        raise broken[0]
    raise NoneConnected({address: errors[address] for address in begun if address in errors})


def in_order(addresses: Iterable[Address]) -> list[Address]:
    """The order in which endpoints are begun: the two families of IP in turn, each in the order given."""
    known = list(addresses)
    families = [[one for one in known if (one.kind == known[0].kind) is same] for same in (True, False)]
    return [address for address in chain(*zip_longest(*families)) if address is not None]
