"""UPnP without a router: what is read of its messages, and routers on loopback that are not as they should be."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from hypothesis import given

from fabstird.p2p.nat.portmap import igd, upnp
from fabstird.p2p.nat.portmap.bounded_xml import MAX_DEPTH, MAX_ELEMENTS, MAX_TEXT, Leaf, XmlError, leaves
from fabstird.p2p.nat.portmap.igd import MAX_BODY, Igd
from fabstird.p2p.nat.portmap.mappings import LEASE, Grant, MappingError, Port
from fabstird.p2p.nat.portmap.router import Router, Silent
from fabstird.p2p.nat.portmap.upnp import Place, Refused, Service
from tests.field.test_foreign_bytes import changed

GATEWAY, LOCAL = ipaddress.ip_address("192.168.1.1"), ipaddress.ip_address("192.168.1.2")
HERE = ipaddress.ip_address("127.0.0.1")
IGD1 = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
WAN = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP = "urn:schemas-upnp-org:service:WANPPPConnection:1"
FOUND = (
    f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {IGD1}\r\nLocation: http://192.168.1.1:5000/root.xml\r\n\r\n"
)


def description(*services: tuple[str, str], base: str = "") -> bytes:
    listed = "".join(
        f"<service>\n  <serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>"
        for kind, url in services
    )
    return (
        f'<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">{base}'
        f"<device><deviceType>{IGD1}</deviceType>"
        "<deviceList><device><serviceList><service><serviceType>urn:x:service:Other:1</serviceType>"
        f"<controlURL>/other</controlURL></service>{listed}</serviceList></device></deviceList></device></root>"
    ).encode()


# --------------------------------------------------------------------------------------------------------------------
# SSDP


def test_only_a_gateway_that_names_itself_is_found() -> None:
    assert upnp.read_found(FOUND.encode(), GATEWAY) == Place(5000, "/root.xml")
    assert upnp.read_found(FOUND.encode(), LOCAL) is None, "the description is at another host"
    for wrong in (
        FOUND.replace("200 OK", "404 Not Found"),
        FOUND.replace(IGD1, "urn:schemas-upnp-org:device:MediaServer:1"),
        FOUND.replace("Location", "Place"),
        "NOTIFY * HTTP/1.1\r\n" + FOUND.partition("\r\n")[2],
        FOUND.replace("\r\n\r\n", "\r\nx: " + "y" * 3000),
        "",
    ):
        assert upnp.read_found(wrong.encode(), GATEWAY) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://192.168.1.9/",
        "http://127.0.0.1/",
        "https://192.168.1.1/",
        "file:///etc/passwd",
        "http://192.168.1.1@10.0.0.1/",
        "http://user@192.168.1.1/",
        "http://192.168.1.1:99999/",
        "http://192.168.1.1:0/",
        "http://192.168.1.1:x/",
        "http://192.168.1.1/a b",
        "http://192.168.1.1/\u00e9",
        "http://192.168.1.1/" + "x" * 600,
        "http://router.local/",
        "http://[::1/",
        "",
    ],
)
def test_a_url_that_leads_elsewhere_is_not_followed(url: str) -> None:
    assert upnp.place(url, GATEWAY) is None
    assert upnp.read_found(FOUND.replace("http://192.168.1.1:5000/root.xml", url).encode(), GATEWAY) is None


def test_a_header_that_is_split_brings_nothing_into_a_request() -> None:
    for url in ("http://192.168.1.1/a\r\nHost: x", "http://192.168.1.1/a\nb", "http://192.168.1.1/a\tb"):
        found = upnp.place(url, GATEWAY)
        assert found is None or found.path.isprintable()


# --------------------------------------------------------------------------------------------------------------------
# The description, and calls


def test_the_best_service_comes_first_and_all_are_on_the_gateway() -> None:
    at = Place(5000, "/a/root.xml")
    told = description((PPP, "/ppp"), (WAN, "ctl"), (WAN, "http://10.0.0.1/evil"), (WAN, "//10.0.0.1/evil"))
    assert upnp.read_services(told, at, GATEWAY) == [
        Service(WAN, Place(5000, "/a/ctl")),
        Service(PPP, Place(5000, "/ppp")),
    ]
    elsewhere = description((WAN, "ctl"), base="<URLBase>http://192.168.1.1:80/b/</URLBase>")
    assert upnp.read_services(elsewhere, at, GATEWAY) == [Service(WAN, Place(80, "/b/ctl"))]
    evil = description((WAN, "ctl"), base="<URLBase>http://10.0.0.1/</URLBase>")
    with pytest.raises(MappingError, match="no service"):
        upnp.read_services(evil, at, GATEWAY)


def test_a_call_and_its_answers() -> None:
    headers, body = upnp.call(Service(WAN, Place(1, "/")), "AddPortMapping", upnp.mapping(LOCAL, 4001, 4002, 1200))
    assert headers["SOAPAction"] == f'"{WAN}#AddPortMapping"'
    told = {leaf.name: leaf.text for leaf in leaves(body)}
    assert (told["NewInternalClient"], told["NewInternalPort"], told["NewExternalPort"]) == (
        "192.168.1.2",
        "4001",
        "4002",
    )
    assert (told["NewProtocol"], told["NewLeaseDuration"]) == ("TCP", "1200")
    external = b"<e><r><NewExternalIPAddress> 45.32.1.1\n</NewExternalIPAddress></r></e>"
    assert str(upnp.read_external(upnp.read_answer(200, external))) == "45.32.1.1"
    assert upnp.read_external({}).is_unspecified
    with pytest.raises(MappingError, match="names no external"):
        upnp.read_external({"NewExternalIPAddress": "router.local"})
    for code, words in ((718, "another machine's"), (606, "not allowed"), (999, "code 999")):
        with pytest.raises(Refused, match=words) as refused:
            upnp.read_answer(500, f"<f><errorCode>{code}</errorCode></f>".encode())
        assert refused.value.code == code
    for status, answer in ((500, b"<f/>"), (500, b"<f><errorCode>9999999999</errorCode></f>"), (404, b"<p>no</p>")):
        with pytest.raises(MappingError, match=f"HTTP status {status}"):
            upnp.read_answer(status, answer)


# --------------------------------------------------------------------------------------------------------------------
# XML


def test_the_texts_of_elements() -> None:
    told = b"<?xml version='1.0' encoding='UTF-16'?><a xmlns='urn:x'> <b>1 &amp; 2</b><c><b>3</b></c></a>"
    assert leaves(told) == [Leaf(1, "b", "1 & 2"), Leaf(3, "b", "3")]
    assert leaves(b"<s:a xmlns:s='urn:x'><s:b>1</s:b></s:a>") == [Leaf(1, "b", "1")]


LAUGHS = b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><a>&b;</a>'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (LAUGHS, "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b"<a>&b;</a>", "not well-formed"),
        (b"<a>", "not well-formed"),
        (b"", "not well-formed"),
        (b"<a>" * 1000, "inside each other"),
        (b"<a>" + b"<b/>" * 5000 + b"</a>", "too many elements"),
        (b"<a>" + b"x" * 2000 + b"</a>", "too long"),
        (b"<a>" + b"x<b/>" * 2000 + b"</a>", "too long"),
    ],
)
def test_xml_that_is_not_read(data: bytes, words: str) -> None:
    with pytest.raises(XmlError, match=words):
        leaves(data)


@given(changed(description((WAN, "/ctl"))))
def test_any_description_is_read_or_one_error(data: bytes) -> None:
    with suppress(MappingError):
        for service in upnp.read_services(data, Place(80, "/"), GATEWAY):
            assert service.place.path.isprintable()
    with suppress(MappingError):
        upnp.read_answer(200, data)
    with suppress(XmlError):
        for leaf in leaves(data):
            assert len(leaf.text) <= MAX_TEXT
    assert MAX_DEPTH * MAX_ELEMENTS > 0


@given(changed(FOUND.encode()))
def test_any_datagram_is_read_or_left(data: bytes) -> None:
    found = upnp.read_found(data, GATEWAY)
    assert found is None or (0 < found.port < 65536 and found.path.isprintable())


# --------------------------------------------------------------------------------------------------------------------
# Routers on loopback

Answering = Callable[[str, str, trio.SocketStream], Awaitable[None]]


class Gateway:
    """Answers by SSDP where its description is, and by HTTP as ``answering`` does: it is given the action of a call, or
    "GET", and the body of the question."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.location = "http://127.0.0.1:{port}/root.xml"
        self.host = "127.0.0.1"  # where it is searched
        self.found = 0  # answers to searches
        self.asked: list[tuple[str, str]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Router]:
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
                await sock.bind((self.host, 0))
                nursery.start_soon(self._tell, sock, self.location.format(port=port))
                yield Router(HERE, HERE, search_port=sock.getsockname()[1])
                nursery.cancel_scope.cancel()

    async def _tell(self, sock: trio.socket.SocketType, location: str) -> None:
        while True:
            _, who = await sock.recvfrom(2048)
            answer = FOUND.replace("http://192.168.1.1:5000/root.xml", location)
            await sock.sendto(answer.encode(), who)
            self.found += 1

    async def _serve(self, stream: trio.SocketStream) -> None:
        data = b""
        with suppress(trio.BrokenResourceError):
            while True:
                head, end, body = data.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                if end and len(body) >= int(length[1] if length else 0):
                    break
                data += await stream.receive_some(4096)
            action = re.search(rb"#(\w+)", head)
            asked = (action[1].decode() if action else "GET", body.decode())
            self.asked.append(asked)
            await self.answering(*asked, stream)
            await stream.aclose()


def http(body: bytes, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Good:
    """A router as it should be, but for what a test makes of it. ``refuse``: with which code a mapping is refused."""

    def __init__(self, external: str = "45.32.1.1", refuse: Callable[[str], int | None] = lambda _: None) -> None:
        self.external = external
        self.refuse = refuse

    async def __call__(self, action: str, body: str, stream: trio.SocketStream) -> None:
        code = self.refuse(body) if action == "AddPortMapping" else None
        if code is not None:
            await stream.send_all(http(f"<f><errorCode>{code}</errorCode></f>".encode(), 500))
        elif action == "GET":
            await stream.send_all(http(description((WAN, "/ctl"))))
        else:
            await stream.send_all(http(f"<a><NewExternalIPAddress>{self.external}</NewExternalIPAddress></a>".encode()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is searched in vain is not waited for for long."""
    monkeypatch.setattr(igd, "SEARCH_AT", (0.0, 0.2))
    monkeypatch.setattr(igd, "SEARCH", 1.0)


async def test_a_port_is_mapped_renewed_and_given_back() -> None:
    gateway = Gateway(Good())
    async with gateway.running() as router:
        method = Igd(router)
        for _ in range(2):
            assert await method.map(4001, 4001) == Grant(4001, ipaddress.ip_address("45.32.1.1"), 4001, LEASE, "upnp")
        await method.unmap(Grant(4001, HERE, 4001, LEASE, "upnp"))
    actions = [action for action, _ in gateway.asked]
    assert actions == [
        "GET",
        *("GetExternalIPAddress", "AddPortMapping"),
        *("GetExternalIPAddress", "AddPortMapping"),
        "DeletePortMapping",
    ]


async def test_a_router_that_knows_no_lease_maps_without_an_end() -> None:
    lease = "<NewLeaseDuration>0</NewLeaseDuration>"
    async with Gateway(Good(refuse=lambda body: None if lease in body else 725)).running() as router:
        assert (await Igd(router).map(4001, 4001)).lease is None


async def test_a_port_that_is_another_machine_s_is_not_taken() -> None:
    taken = "<NewExternalPort>4001</NewExternalPort>"
    async with Gateway(Good(refuse=lambda body: 718 if taken in body else None)).running() as router:
        grant = await Igd(router).map(4001, 4001)
        assert (grant.port, grant.external_port != 4001, grant.external_port >= 1024) == (4001, True, True)
    gateway = Gateway(Good(refuse=lambda _: 718))
    async with gateway.running() as router:
        with pytest.raises(Refused, match="another machine's"):
            await Igd(router).map(4001, 4001)
    assert len([action for action, _ in gateway.asked if action == "AddPortMapping"]) == igd.TRIES


async def test_a_router_that_has_restarted_at_another_port_is_looked_for_anew() -> None:
    async with Gateway(Good()).running() as first:
        method = Igd(first)
        await method.map(4001, 4001)
    async with Gateway(Good("45.32.1.9")).running() as second:
        method._router = second
        assert str((await method.map(4001, 4001)).external) == "45.32.1.9"


@pytest.mark.parametrize("action", ["GetExternalIPAddress", "AddPortMapping"])
async def test_what_is_mapped_is_given_back_wherever_a_stop_comes(action: str) -> None:
    """While the router was asked anew nobody knew any more where; and what it maps without an end, it keeps."""
    good, pending = Good(), trio.Event()

    async def answer(asked: str, body: str, stream: trio.SocketStream) -> None:
        if asked == action and [one for one, _ in gateway.asked].count(asked) == 2:
            pending.set()
            await trio.sleep_forever()
        await good(asked, body, stream)

    gateway = Gateway(answer)
    async with gateway.running() as router:
        method = Igd(router)
        grant = await method.map(4001, 4001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(method.map, 4002, 4002)
            await pending.wait()
            nursery.cancel_scope.cancel()
        assert list(method.unsure) == ([Port("tcp", 4002)] if action == "AddPortMapping" else [])
        for port in method.unsure:
            await method.withdraw(port)
        await method.unmap(grant)
    deleted = [re.search(r"<NewExternalPort>(\d+)<", body) for one, body in gateway.asked if one == "DeletePortMapping"]
    assert [one[1] for one in deleted if one] == (["4002", "4001"] if action == "AddPortMapping" else ["4001"])


async def endless_body(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b"<a>" * 10_000)


async def endless_headers(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"x: " + b"y" * 10_000 + b"\r\n")


async def endless_interim_answers(_: str, __: str, stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


async def long_length(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b" " * (2 * MAX_BODY))


async def drip(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.05)


async def silence(_: str, __: str, stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def nonsense(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"\x16\x03\x01 no HTTP\r\n\r\n")


async def nothing(_: str, __: str, stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


async def elsewhere(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n")


async def laughter(_: str, __: str, stream: trio.SocketStream) -> None:
    await stream.send_all(http(LAUGHS))


@pytest.mark.parametrize(
    ("answering", "words"),
    [
        (endless_body, "longer than"),
        (endless_headers, "HTTP as it should"),
        (endless_interim_answers, "longer than"),
        (long_length, "longer than"),
        (drip, "does not answer within"),
        (silence, "does not answer within"),
        (nonsense, "HTTP as it should"),
        (nothing, "HTTP as it should|without an answer"),
        (elsewhere, "HTTP status 302"),
        (laughter, "document type"),
        (Good("127.0.0.1.9"), "no external address"),
        (Good("0.0.0.0"), "no external address"),
        (Good(refuse=lambda _: 606), "not allowed"),
    ],
)
async def test_a_router_that_is_not_as_it_should_be_is_one_error(
    answering: Answering, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answering in (drip, silence):
        monkeypatch.setattr(igd, "HTTP", 0.5)
    async with Gateway(answering).running() as router:
        with trio.fail_after(60), pytest.raises(MappingError, match=words):
            await Igd(router).map(4001, 4001)


async def test_a_description_at_another_host_is_never_asked_for(quick: None) -> None:
    gateway = Gateway(Good())
    gateway.location = "http://127.0.0.2:{port}/root.xml"
    async with gateway.running() as router:
        with pytest.raises(Silent, match="does not answer"):
            await Igd(router).map(4001, 4001)
    assert gateway.found
    assert gateway.asked == []


async def test_the_answer_of_another_host_is_not_heard(quick: None) -> None:
    """It answers in the router's place, from an address of its own: the kernel's choice, 127.0.0.1."""
    gateway = Gateway(Good())
    gateway.host, gateway.location = "0.0.0.0", "http://127.0.0.3:{port}/root.xml"
    async with gateway.running() as router:
        with pytest.raises(Silent, match="does not answer"):
            await Igd(Router(ipaddress.ip_address("127.0.0.3"), HERE, search_port=router.search_port)).map(1, 1)
    assert gateway.found
    assert gateway.asked == []
