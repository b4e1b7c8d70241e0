"""Finds the client behind a trusted proxy, by the PROXY protocol (haproxy.org, proxy-protocol.txt, versions 1 and 2) or
by ``X-Forwarded-For`` in the head of a WebSocket upgrade. Only trusted proxies are believed, since limits and bans
depend on the client's address, and anybody can send such a header.

The proxy is trusted, its clients are not, so everything read is bounded.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import trio

from fabstird.p2p.wire.addresses import Address, from_endpoint
from fabstird.p2p.wire.errors import ConnectionLost, PeerError
from fabstird.p2p.wire.ips import IP, Network, canonical, to_ip

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_LINE = 107  # bytes of the single line of version 1
MAX_HEADER = 536  # bytes of a version 2 header, more than an address and the entries in use need
MAX_HEAD = 8192  # bytes of a request's head
MAX_FORWARDED = 32  # addresses that are read
TCP4, TCP6 = 0x11, 0x21  # address families of version 2


@dataclass(frozen=True, slots=True)
class Caller:
    """An accepted socket, the address at its other end, and the bytes already read."""

    stream: trio.SocketStream
    remote: Address
    ahead: bytes = b""


def is_trusted(host: str, trusted: Iterable[Network]) -> bool:
    ip = to_ip(host)
    return ip is not None and any(ip in network for network in trusted)


async def introduced(caller: Caller, trusted: Sequence[Network]) -> Caller:
    """The client behind ``caller``, a trusted proxy; ``caller`` itself where it names none. The caller of this sets the
    deadline. Raises `PeerError`, `ConnectionLost`."""
    data = await _more(caller.stream, b"")
    remote = caller.remote
    if data[0] == SIGNATURE[0]:
        while (end := version_2(data)) is None:
            data = await _more(caller.stream, data)
        size, behind = end
    elif data[:1] == b"P":
        while (end := version_1(data)) is None:
            data = await _more(caller.stream, data)
        size, behind = end
    elif remote.transport == "ws":
        while (head := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD:
                raise PeerError(f"a request's head has more than {MAX_HEAD} bytes")
            data = await _more(caller.stream, data)
        size, behind = 0, forwarded(data[:head], trusted)
    else:
        size, behind = 0, None
    if behind is not None:
        host, port = behind
        remote = from_endpoint(str(host), port or remote.port, remote.transport)
    return Caller(caller.stream, remote, data[size:])


async def _more(stream: trio.SocketStream, data: bytes) -> bytes:
    try:
        came = await stream.receive_some(MAX_HEAD)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionLost("connection reset before the proxy has said for whom it is") from error
    if not came:
        raise ConnectionLost("closed before the proxy has said for whom it is")
    return data + bytes(came)


Behind = tuple[IP, int]  # port 0 where it is not known


def version_1(data: bytes) -> tuple[int, Behind | None] | None:
    """The header's length and the client; None while it is incomplete. Raises `PeerError`."""
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(data) >= MAX_LINE or not data.startswith(b"PROXY "[: len(data)]):
            raise PeerError("this is not a header of the PROXY protocol")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return end + 2, None
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
        raise PeerError("this is not a header of the PROXY protocol")
    return end + 2, (_ip(words[2]), _port(words[4]))


def version_2(data: bytes) -> tuple[int, Behind | None] | None:
    """As `version_1`."""
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
        raise PeerError("this is not a header of the PROXY protocol")
    if len(data) < 16:
        return None
    version, family, size = data[12], data[13], int.from_bytes(data[14:16], "big")
    if version not in (0x20, 0x21) or size > MAX_HEADER:
        raise PeerError("the proxy's header is of no version of the PROXY protocol, or too long")
    if len(data) < 16 + size:
        return None
    width = {TCP4: 4, TCP6: 16}.get(family, 0)
    if version == 0x20 or not width:  # the proxy's own connection, such as a health check; or not TCP
        return 16 + size, None
    if size < 2 * width + 4:
        raise PeerError("the proxy's header is cut short")
    ip = canonical(ipaddress.ip_address(data[16 : 16 + width]))
    return 16 + size, (ip, int.from_bytes(data[16 + 2 * width : 18 + 2 * width], "big"))


def forwarded(head: bytes, trusted: Sequence[Network]) -> Behind | None:
    """The client that a request's head names. Each proxy has appended the address that it saw, and anybody may have
    written the ones before. So the last address that is not a trusted proxy is the client."""
    hosts: list[str] = []
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"x-forwarded-for":
            hosts += value.decode("ascii", "replace").split(",")
    for text in hosts[: -MAX_FORWARDED - 1 : -1]:
        try:
            found = _ip(_without_port(text.strip()))
        except PeerError:
            return None  # what stands before it proves nothing
        if not is_trusted(str(found), trusted):
            return found, 0
    return None


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _ip(text: str) -> IP:
    ip = to_ip(text)
    if ip is None:
        raise PeerError("the proxy names no IP address")
    return ip


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise PeerError("the proxy names no port")
    return int(text)


class Ahead(trio.abc.Stream):
    """A stream of which something was already read."""

    def __init__(self, stream: trio.SocketStream, ahead: bytes) -> None:
        self._stream = stream
        self._ahead = ahead

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._ahead:
            return await self._stream.receive_some(max_bytes)
        size = len(self._ahead) if max_bytes is None else max_bytes
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        await trio.lowlevel.checkpoint()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
