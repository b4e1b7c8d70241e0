"""A router is asked by UPnP: looked for by SSDP, then by HTTP. Whatever it sends is bounded in bytes and time."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress

import h11
import trio

from fabstird.p2p.nat.portmap import upnp
from fabstird.p2p.nat.portmap.mappings import LEASE, Grant, Kind, MappingError, MethodName, Port
from fabstird.p2p.nat.portmap.router import Router, Silent
from fabstird.p2p.nat.portmap.upnp import Place, Refused, Service
from fabstird.p2p.wire.ips import IP

SEARCH_AT = (0.0, 0.5, 1.5)  # seconds at which it is searched, since datagrams get lost
SEARCH = 3.0  # seconds for the router to answer
MAX_FOUND = 256  # datagrams that are looked at in a search; others in the network may answer, too
HTTP = 5.0  # seconds for one question by HTTP
MAX_HEADERS, MAX_BODY = 8 * 1024, 64 * 1024  # bytes of its answer
MAX_ANSWER = 4 * MAX_BODY  # in all, with what frames it
TRIES = 4  # external ports


class Igd:
    name: MethodName = "upnp"

    def __init__(self, router: Router) -> None:
        self._router = router
        self._service: Service | None = None
        self._wishes: dict[Port, int] = {}  # external ports, by the port that is asked for, until the router answers

    @property
    def unsure(self) -> Collection[Port]:
        return list(self._wishes)

    async def map(self, port: int, external_port: int, kind: Kind = "tcp") -> Grant:
        service, external = await self._find()
        lease: int | None = LEASE
        wish, here = external_port, Port(kind, port)
        for _ in range(TRIES):
            arguments = upnp.mapping(self._router.local, port, wish, lease or 0, kind)
            self._wishes[here] = wish
            try:
                await self._call(service, "AddPortMapping", arguments)
            except Refused as refusal:
                del self._wishes[here]
                if refusal.code in upnp.NO_LEASE and lease is not None:
                    lease = None
                elif refusal.code == upnp.CONFLICT:
                    wish = random.randrange(1024, 65536)
                else:
                    raise
            else:
                del self._wishes[here]
                return Grant(port, external, wish, lease, self.name, kind)
        raise Refused(upnp.CONFLICT)

    async def unmap(self, grant: Grant) -> None:
        await self._delete(grant.external_port, grant.kind)

    async def withdraw(self, here: Port) -> None:
        await self._delete(self._wishes[here], here.kind)

    async def _delete(self, external_port: int, kind: Kind) -> None:
        service = self._service
        if service is None:
            raise MappingError("the router has not answered since")
        try:
            await self._call(service, "DeletePortMapping", upnp.named(external_port, kind))
        except Refused as refusal:
            if refusal.code != upnp.NO_SUCH:
                raise

    async def _find(self) -> tuple[Service, IP]:
        """The service, and the router's external address. Looked for anew where the one that was known fails; that
        stays known until there is another, since mappings are given back there."""
        if self._service is not None:
            with suppress(MappingError):
                return self._service, await self._external(self._service)
        place = await search(self._router)
        description = await self._fetch(place)
        error = MappingError("the router has no external address at present")
        for service in upnp.read_services(description, place, self._router.gateway):
            try:
                external = await self._external(service)
            except MappingError as one:
                error = one
                continue
            if not external.is_unspecified:
                self._service = service
                return service, external
        raise error

    async def _external(self, service: Service) -> IP:
        return upnp.read_external(await self._call(service, "GetExternalIPAddress", {}))

    async def _fetch(self, place: Place) -> bytes:
        status, body = await ask(self._router, place, "GET")
        if status != 200:
            raise MappingError(f"the router's description answers with HTTP status {status}")
        return body

    async def _call(self, service: Service, action: str, arguments: Mapping[str, str]) -> dict[str, str]:
        headers, body = upnp.call(service, action, arguments)
        return upnp.read_answer(*await ask(self._router, service.place, "POST", headers, body))


async def search(router: Router) -> Place:
    """Where the description is of the gateway itself: of no other host, whatever it answers. Both the group and the
    gateway are asked, since some routers hear only one of them. Raises `MappingError`."""
    try:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, router.local.packed)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
            await sock.bind((str(router.local), 0))
            began, found = trio.current_time(), 0
            dues = [*(began + at for at in SEARCH_AT[1:]), began + SEARCH]
            for due in dues:
                for question in upnp.searches():
                    for host in (upnp.GROUP, str(router.gateway)):
                        with suppress(OSError):  # no route for the group, or nobody who listens there
                            await sock.sendto(question, (host, router.search_port))
                with trio.move_on_at(due):
                    while found < MAX_FOUND:
                        datagram, sender = await sock.recvfrom(upnp.MAX_DATAGRAM + 1)
                        found += 1
                        if sender[0] == str(router.gateway):
                            place = upnp.read_found(datagram, router.gateway)
                            if place is not None:
                                return place
                    raise Silent("too many answers, and none of the router")
    except OSError as error:
        raise Silent((error.strerror or str(error)).lower()) from error
    raise Silent("the router does not answer")


async def ask(
    router: Router, place: Place, method: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of the router's answer. A redirection is not followed. Raises `MappingError`."""
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
    host = f"{router.gateway}:{place.port}"
    wanted = [("Host", host), ("Connection", "close"), ("User-Agent", "fabstird UPnP/1.1"), *(headers or {}).items()]
    if body:
        wanted.append(("Content-Length", str(len(body))))
    question = machine.send(h11.Request(method=method, target=place.path, headers=wanted)) or b""
    question += (machine.send(h11.Data(data=body)) or b"") + (machine.send(h11.EndOfMessage()) or b"")
    try:
        with trio.fail_after(HTTP):
            stream = await trio.open_tcp_stream(str(router.gateway), place.port, local_address=str(router.local))
            async with stream:
                await stream.send_all(question)
                return await _read(machine, stream)
    except trio.TooSlowError as error:
        raise Silent(f"the router does not answer within {HTTP:g} s") from error
    except (OSError, trio.BrokenResourceError) as error:
        raise Silent("the router's HTTP service cannot be reached") from error
    except h11.RemoteProtocolError as error:
        raise MappingError("the router does not speak HTTP as it should") from error


async def _read(machine: h11.Connection, stream: trio.SocketStream) -> tuple[int, bytes]:
    status, body, size = 0, bytearray(), 0
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(16 * 1024)
            size += len(data)
            if size > MAX_ANSWER:
                raise MappingError(f"the router's answer is longer than {MAX_ANSWER} bytes")
            machine.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise MappingError(f"the router's answer is longer than {MAX_BODY} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)
        elif not isinstance(event, h11.InformationalResponse):
            raise MappingError("the router has ended the connection without an answer")
