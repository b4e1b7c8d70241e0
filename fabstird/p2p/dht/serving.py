"""Streams on which other nodes of the DHT ask this one: the shell around `server`, bounded in number and time.

One node alone may use every place: who announces many records asks several things at once, and a stream that has ended
there may still be ending here. When all are taken, who has been silent longest gives its place up, since go-libp2p
keeps a stream open to each node that it has asked; where nobody is silent, nodes share the places, by network first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import trio

from fabstird.p2p.dht.messages import MAX_MESSAGE, MessageError, decode, encode
from fabstird.p2p.dht.server import Sender, Server
from fabstird.p2p.dht.values import Refused
from fabstird.p2p.host.host import Stream
from fabstird.p2p.streams.peer_stream import give_up
from fabstird.p2p.streams.places import Holder, Places, holder
from fabstird.p2p.wire.errors import PeerError
from fabstird.p2p.wire.frames import frame, read_framed
from fabstird.p2p.wire.peer_ids import to_bytes

IDLE = 60.0  # seconds that a stream to us may be silent
WRITE = 10.0  # seconds for an answer to be read
SILENT = 1.0  # seconds after which a stream counts as silent
MAX_STREAMS = 128  # open at a time


class Serving:
    """Serves these streams. ``sender`` describes a peer; ``alive`` is called when it asks something; ``received``
    counts messages by kind."""

    def __init__(
        self,
        server: Server,
        sender: Callable[[bytes], Sender],
        alive: Callable[[bytes], None],
        received: Counter[str],
    ) -> None:
        self.malformed = 0
        self._server = server
        self._sender = sender
        self._alive = alive
        self._received = received
        self._places: Places[Stream] = Places(MAX_STREAMS, give_up)
        self._silent: dict[Stream, float] = {}  # streams awaiting a message, and since when

    async def serve(self, stream: Stream) -> None:
        """Serve one stream: any number of messages, one after another."""
        whose = holder(stream.link)
        if not self._has_room(whose):
            raise PeerError("too many streams of the DHT")
        self._places.take(stream, whose)
        try:
            await self._answer(stream)
        finally:
            self._places.leave(stream)

    async def _answer(self, stream: Stream) -> None:
        peer = to_bytes(stream.peer_id)
        while True:
            self._silent[stream] = trio.current_time()
            try:
                with trio.fail_after(IDLE):
                    data = await read_framed(stream, MAX_MESSAGE)
            finally:
                self._silent.pop(stream, None)
            if data is None:
                await stream.close_write()
                return
            try:
                message = decode(data)
                answer = self._server.answer(self._sender(peer), message, time.time())
            except (MessageError, Refused) as error:
                self.malformed += isinstance(error, MessageError)
                self._received["malformed" if isinstance(error, MessageError) else "refused"] += 1
                raise PeerError(str(error)) from error  # the specification: "on any error, the stream is reset"
            self._received[message.kind.name] += 1
            self._alive(peer)
            if answer is not None:
                with trio.fail_after(WRITE):
                    await stream.write(frame(encode(answer), "uvarint"))

    def _has_room(self, whose: Holder) -> bool:
        """Whether a stream of the peer gets a place; if all are taken, the longest silent one loses its own."""
        if len(self._places) < MAX_STREAMS:
            return True
        longest = next(iter(self._silent), None)
        if longest is not None and self._silent[longest] <= trio.current_time() - SILENT:
            del self._silent[longest]
            self._places.leave(longest)
            give_up(longest)
            return True
        return self._places.has_room(whose)

    def __len__(self) -> int:
        return len(self._places)
