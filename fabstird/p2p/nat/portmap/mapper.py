"""Port mapping of one run of the node: the router at home leads what comes from outside to each port that the node
listens on, for as long as the node runs.

The router is asked by each way that it may know, until all ports are mapped; leases are renewed at half of their time,
asked for again where the network has changed, and given back at the end. A node that listens on loopback alone, or that
no router with a private address leads to, asks nobody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from fabstir_client.api.types import NatMapped, NatUnmapped, PortMapping
from fabstird.events import EventLog
from fabstird.log.logger import get_logger
from fabstird.p2p.host.host import Host
from fabstird.p2p.nat.portmap.mappings import (
    MAX_MAPPINGS,
    Grant,
    Mapping,
    MappingError,
    Mappings,
    Port,
    checked,
    port_of,
    wanted,
)
from fabstird.p2p.nat.portmap.methods import Method, methods
from fabstird.p2p.nat.portmap.router import Router, Silent, find_router
from fabstird.p2p.wire.addresses import Address

log = get_logger("p2p.portmap")

GOODBYE = 0.7  # seconds at the end for the router to take all mappings back; the connections are closed after it
AWAKE = 60.0  # seconds between two looks at whether the machine has slept
NAP = 30.0  # seconds of sleep after which the router is asked
NO_ROUTER = "no default route leads to a router in a private network"
NO_LISTENER = "the node does not listen at {local}, where the router could lead to"


def time_asleep() -> float:
    """Seconds for which the machine has slept since it started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class PortMapper:
    """``secret`` is known to this node alone. ``find`` tells the router of this moment."""

    def __init__(
        self, host: Host, events: EventLog, secret: bytes, *, find: Callable[[], Router | None] = find_router
    ) -> None:
        self._host = host
        self._events = events
        self._secret = secret
        self._find = find
        self._mappings = Mappings()
        self._router: Router | None = None
        self._methods: list[Method] = []  # the one that has worked comes first
        self._standing = PortMapping(state="asking")
        self._changed = trio.Event()
        self._wall_ahead = time.time() - trio.current_time()

    async def run(self) -> None:
        """Until cancelled; then what is mapped is given back."""
        try:
            while True:
                changed, asleep = self._changed, time_asleep()
                await self._round()
                dues = (self._mappings.next_round(), self._mappings.next_end())
                due = min((due for due in dues if due is not None), default=math.inf)
                # The clock of due times stands still while the machine sleeps, and leases go on
                while not changed.is_set() and trio.current_time() < due and time_asleep() < asleep + NAP:
                    with trio.move_on_at(min(due, trio.current_time() + AWAKE)):
                        await changed.wait()
        finally:
            with trio.CancelScope(deadline=trio.current_time() + GOODBYE, shield=True):
                await self._give_back()

    def network_changed(self) -> None:
        """Look again at once."""
        self._mappings.at_once()
        self._changed.set()
        self._changed = trio.Event()

    def standing(self) -> PortMapping:
        """How it stands, for users."""
        return self._standing

    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"portMappings": (len(self._mappings.held), MAX_MAPPINGS)}

    # ----------------------------------------------------------------------------------------------------------------
    # One round

    async def _round(self) -> None:
        self._tell(self._mappings.expire(trio.current_time()), [])
        router = self._find()
        if router != self._router:  # what another router has mapped is out of reach
            self._router = router
            self._methods = [] if router is None else methods(router, self._secret)
            self._tell(self._mappings.keep(()), [])
        if router is None:
            self._stand(PortMapping(state="idle", reason=NO_ROUTER))
            self._mappings.asked([], trio.current_time())
            return
        listeners = wanted(self._host.listen_addresses(), router.local)
        self._tell(self._mappings.keep(map(port_of, listeners)), [])
        if not listeners:
            reason = NO_LISTENER.format(local=router.local)
            self._stand(PortMapping(state="idle", reason=reason))
            self._mappings.asked([], trio.current_time())
            return
        missing, errors = await self._ask_for(listeners)
        self._mappings.asked(missing, trio.current_time())
        self._stand(self._outcome(router, missing, errors))

    async def _ask_for(self, listeners: Sequence[Address]) -> tuple[list[Address], list[str]]:
        """By each way in turn. Returns the listeners that are not mapped by any of them, and what was said."""
        missing, errors = list(listeners), []
        for method in self._methods.copy():
            left, error = await self._ask_by(method, missing)
            if len(left) < len(missing):
                self._methods.sort(key=lambda one: one is not method)
            if error:
                errors.append(f"{method.name}: {error}")
            missing = left
            if not missing:
                return [], []
        return missing, errors

    async def _ask_by(self, method: Method, listeners: Sequence[Address]) -> tuple[list[Address], str]:
        left: list[Address] = []
        said = ""
        for number, listener in enumerate(listeners):
            here = port_of(listener)
            before = self._mappings.held.get(here)
            wish = before.grant.external_port if before is not None else listener.port
            try:
                grant = await self._granted(method, here, wish, is_new=before is None)
            except Silent as error:
                return [*left, *listeners[number:]], str(error)
            except MappingError as error:
                left.append(listener)
                said = str(error)
            else:
                self._tell(*self._mappings.take(listener, grant, trio.current_time()))
        return left, said

    async def _granted(self, method: Method, here: Port, wish: int, *, is_new: bool) -> Grant:
        """Raises `MappingError`. What the router has mapped and nobody here believes is given back."""
        grant = await method.map(here.number, wish, here.kind)
        try:
            return checked(grant)
        except MappingError:
            if is_new:
                await self._take_back(partial(method.unmap, grant), here)
            raise

    def _outcome(self, router: Router, missing: Sequence[Address], errors: Sequence[str]) -> PortMapping:
        held = list(self._mappings.held.values())
        gateway = str(router.gateway)
        if not held:
            return PortMapping(state="refused", gateway=gateway, reason="; ".join(errors))
        reasons = []
        ports = [port_of(one) for one in missing]
        lacking = [str(port) for port in ports if port not in self._mappings.held]
        due = [str(port) for port in ports if port in self._mappings.held]
        for words, some in (("not mapped", lacking), ("not renewed", due)):
            if some:
                reasons.append(f"port {', '.join(some)} {words}: {'; '.join(errors)}")
        hidden = sorted({str(mapping.grant.external) for mapping in held if not mapping.is_public})
        if hidden:
            reasons.append(
                f"the router has a private address outside, {', '.join(hidden)}, and another router lies behind it"
            )
        return PortMapping(
            state="mapped", gateway=gateway, method=held[0].grant.method, reason="; ".join(reasons) or None
        )

    # ----------------------------------------------------------------------------------------------------------------
    # What has changed

    def _stand(self, standing: PortMapping) -> None:
        """Logged once, until it is another."""
        if standing == self._standing:
            return
        self._standing = standing
        about = {key: value for key, value in standing.to_dict().items() if key != "state"}
        words = {
            "idle": "port mapping is idle",
            "refused": "the router maps no port; trying again",
            "mapped": "ports are mapped",
        }
        log.info(words[standing.state], **about)

    def _tell(self, gone: Sequence[Mapping], new: Sequence[Mapping]) -> None:
        if not gone and not new:
            return
        own = self._host.peer_id
        held = self._mappings.held.values()
        self._host.set_mapped_addresses([str(mapping.address) for mapping in held])
        for kind, mappings in ((NatUnmapped, gone), (NatMapped, new)):
            for mapping in mappings:
                until = mapping.until
                self._events.publish(
                    kind(
                        address=f"{mapping.address}/p2p/{own}",
                        protocol=mapping.grant.kind,
                        method=mapping.grant.method,
                        expires=None if until is None else int((until + self._wall_ahead) * 1000),
                    )
                )

    async def _give_back(self) -> None:
        """All at once; a router that does not answer forgets them at the end of their lease. What was being asked for
        is among them: it may be mapped already."""
        held = list(self._mappings.held.values())
        try:
            async with trio.open_nursery() as nursery:
                for method in self._methods:
                    for here in method.unsure:
                        nursery.start_soon(self._take_back, partial(method.withdraw, here), here)
                    for grant in [one.grant for one in held if one.grant.method == method.name]:
                        nursery.start_soon(self._take_back, partial(method.unmap, grant), grant.here)
        finally:
            self._tell(self._mappings.keep(()), [])

    async def _take_back(self, ask: Callable[[], Awaitable[None]], here: Port) -> None:
        try:
            await ask()
        except MappingError as error:
            log.info("the router does not take a mapping back", port=here.number, protocol=here.kind, reason=str(error))
