"""Trap 20 on stock py-libp2p 0.8.1: what QUIC does to a stream that is read more slowly than it is written."""

import hashlib
import random
from contextlib import suppress
from typing import Any

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from tests.harness import until

from .stock import Verdict, main

SLOW = TProtocol("/demo/slow/1")
SIZE = 4 * 1024 * 1024  # bytes; twice what a stream keeps unread
AHEAD = 256 * 1024  # bytes that come beyond those before the first is read; the sender is allowed to send all of it
IDLE = 5.0  # seconds without a byte, after which nothing more comes
LISTEN = Multiaddr("/ip4/127.0.0.1/udp/0/quic-v1")


async def slow_reader() -> Verdict:
    """One stream of known bytes, written at once, read once more has come than is kept, until nothing more comes."""
    data = random.Random(20).randbytes(SIZE)
    received = bytearray()
    over = trio.Event()

    async def read_late(stream: NetStream) -> None:
        muxed: Any = stream.muxed_stream
        incoming = muxed._connection._quic._streams[int(muxed.stream_id)].receiver
        await until(lambda: incoming.highest_offset >= muxed.MAX_RECEIVE_BUFFER_SIZE + AHEAD)
        with suppress(StreamError, trio.TooSlowError):  # an end is such an error, too
            while True:
                with trio.fail_after(IDLE):
                    received.extend(await stream.read(65536))
        over.set()

    reader, writer = (new_host(enable_quic=True, listen_addrs=[LISTEN]) for _ in range(2))
    async with reader.run([LISTEN]), writer.run([LISTEN]):
        reader.set_stream_handler(SLOW, read_late)
        await writer.connect(info_from_p2p_addr(reader.get_addrs()[0]))
        stream = await writer.new_stream(reader.get_id(), [SLOW])
        with trio.fail_after(120):
            await stream.write(data)
            await stream.close_write()
            await over.wait()
    whole = hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    beginning = 0  # bytes that are right, from the start
    for beginning in range(0, len(received), 1024):
        if received[beginning : beginning + 1024] != data[beginning : beginning + 1024]:
            break
    return {"sent": SIZE, "received": len(received), "whole": whole, "right_up_to": beginning}


if __name__ == "__main__":
    main({"slow_reader": slow_reader})
