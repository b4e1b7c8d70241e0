"""What Linux does for sockets of UDP, and Python has no names for."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from fabstird.p2p.quic.identity import UdpAddress

_SOL_UDP, _UDP_SEGMENT = 17, 103  # linux/udp.h
_MOST, _MOST_BYTES = 64, 65_000  # datagrams in one call, and bytes of them together
_NOT_HERE = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
_SIZE = struct.Struct("=H")
_IP_PKTINFO = 8  # linux/in.h; Python's socket has no name for it before 3.14
_IN_PKTINFO, _IN6_PKTINFO = struct.Struct("=I4s4s"), struct.Struct("=16sI")
ANCILLARY = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(
    _IN_PKTINFO.size
)  # bytes, of what `local_of` reads
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3  # linux/in.h, linux/in6.h


def forbid_fragments(sock: socket.socket) -> None:
    """No datagram is cut in pieces on its way, and what the network says of its size is not believed (RFC 9000, 14)."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)


def runs(datagrams: Sequence[tuple[bytes, UdpAddress]]) -> Iterator[Sequence[tuple[bytes, UdpAddress]]]:
    """The same ones, those together that one call may send: to one target, all of one size but the last, which may be
    shorter."""
    at = 0
    while at < len(datagrams):
        first, target = datagrams[at]
        end, room = at + 1, _MOST_BYTES - len(first)
        for data, other in datagrams[end : at + _MOST]:
            if other != target or len(data) > min(len(first), room):
                break
            end, room = end + 1, room - len(data)
            if len(data) < len(first):
                break
        yield datagrams[at:end]
        at = end


def send_together(
    sock: socket.socket, run: Sequence[tuple[bytes, UdpAddress]], ancillary: list[tuple[int, int, bytes]]
) -> bool:
    """One of `runs`, in one call. Whether the kernel has taken all of it; False where it takes none of it so, for
    want of room or because it cannot. Raises `OSError`."""
    segment = (_SOL_UDP, _UDP_SEGMENT, _SIZE.pack(len(run[0][0])))
    try:
        sock.sendmsg([b"".join([data for data, _ in run])], [*ancillary, segment], 0, run[0][1])
    except (BlockingIOError, InterruptedError):
        return False
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def tell_local(sock: socket.socket) -> None:
    """Each datagram that comes tells which address of ours it was sent to."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def local_of(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    """The address of ours that a datagram was sent to, packed."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return bytes(_IN_PKTINFO.unpack(data[: _IN_PKTINFO.size])[2])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return bytes(_IN6_PKTINFO.unpack(data[: _IN6_PKTINFO.size])[0])
    return None


def sent_from(local: bytes) -> tuple[int, int, bytes]:
    """What has a datagram leave from this address of ours."""
    if len(local) == 4:
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, bytes(4))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, 0)
