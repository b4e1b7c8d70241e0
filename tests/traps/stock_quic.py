"""Trap 20 on stock py-libp2p 0.8.1: what QUIC does to a stream that is read more slowly than it is written."""

import hashlib
import random

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from .stock import Verdict, main

SLOW = TProtocol("/demo/slow/1")
SIZE = 4 * 1024 * 1024  # bytes; twice what a stream keeps unread
PAUSE = 8.0  # seconds for the sender to run ahead of the reader; the defect is in what it is allowed to send meanwhile
LISTEN = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")


async def slow_reader() -> Verdict:
    """One stream of known bytes, written at once, read after a pause until nothing more comes."""
    data = random.Random(20).randbytes(SIZE)
    received = bytearray()
    over = trio.Event()

    async def read_late(stream: NetStream) -> None:
        await trio.sleep(PAUSE)
        with trio.move_on_after(5):
            while part := await stream.read(65536):
                received.extend(part)
        over.set()

    reader, writer = (new_host(enable_quic=True, listen_addrs=[LISTEN]) for _ in range(2))
    async with reader.run([LISTEN]), writer.run([LISTEN]):
        reader.set_stream_handler(SLOW, read_late)
        await writer.connect(info_from_p2p_addr(reader.get_addrs()[0]))
        stream = await writer.new_stream(reader.get_id(), [SLOW])
        with trio.move_on_after(5):
            await stream.write(data)
            await stream.close_write()
        with trio.move_on_after(20):
            await over.wait()
    whole = hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    beginning = 0  # bytes that are right, from the start
    for beginning in range(0, len(received), 1024):
        if received[beginning : beginning + 1024] != data[beginning : beginning + 1024]:
            break
    return {"sent": SIZE, "received": len(received), "whole": whole, "right_up_to": beginning}


if __name__ == "__main__":
    main({"slow_reader": slow_reader})
