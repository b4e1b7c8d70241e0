"""A program to be run in a network namespace: what mDNS there looks like from outside of any libp2p peer.

usage: python -m tests.support.multicaster watch            a line for each mDNS packet that comes in: SOURCE SIZE
                                           send INTERFACE   multicasts each line of hexadecimal digits on stdin
                                           hold             binds the port and does not share it, until stdin ends
                                           share            binds it as other programs do, by SO_REUSEADDR alone

"ready" is the first line that each of them writes.
"""

from __future__ import annotations

import socket
import struct
import sys

PORT = 5353
GROUP = "224.0.0.251"
ETH_P_ALL = 3


def watch() -> None:
    """On all interfaces, loopback too, as the kernel hands them over."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as wire:
        print("ready", flush=True)
        while True:
            packet, (_, protocol, kind, *_) = wire.recvfrom(65536)
            if kind == socket.PACKET_OUTGOING:
                continue
            source = udp_source(packet, protocol)
            if source is not None:
                print(source, len(packet), flush=True)


def udp_source(packet: bytes, protocol: int) -> str | None:
    """The sender of a packet to the mDNS port; None for any other."""
    if protocol == 0x0800 and packet[9] == socket.IPPROTO_UDP:
        source, payload = socket.inet_ntop(socket.AF_INET, packet[12:16]), packet[(packet[0] & 15) * 4 :]
    elif protocol == 0x86DD and packet[6] == socket.IPPROTO_UDP:
        source, payload = socket.inet_ntop(socket.AF_INET6, packet[8:24]), packet[40:]
    else:
        return None
    return source if struct.unpack(">H", payload[2:4])[0] == PORT else None


def send(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        out = struct.pack("4s4si", bytes(4), bytes(4), socket.if_nametoindex(interface))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
        print("ready", flush=True)
        for line in sys.stdin:
            sock.sendto(bytes.fromhex(line), (GROUP, PORT))
    print("sent", flush=True)


def share() -> None:
    hold(share=True)


def hold(*, share: bool = False) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(share))
        sock.bind(("", PORT))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    {"watch": watch, "send": send, "hold": hold, "share": share}[sys.argv[1]](*sys.argv[2:])
