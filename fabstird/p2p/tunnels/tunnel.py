"""What both kinds of tunnels share: their streams, their byte counts, and their last error."""

from __future__ import annotations

from abc import ABC, abstractmethod

from fabstir_client.api.streams import Outcome
from fabstir_client.api.tunnels import TunnelRecord
from fabstird.p2p.streams.ledger import Stream
from fabstird.p2p.streams.owner import Part
from fabstird.p2p.tunnels.store import Kept

MAX_ERROR = 300  # characters


class Tunnel(Part, ABC):
    """The owner of its protocol and streams. With ``keep`` it survives a restart; it is closed when its ``holder``
    ends."""

    def __init__(self, about: Kept, *, keep: bool) -> None:
        self.about = about
        self.keep = keep
        self.holder: object | None = None
        self.last_error: str | None = None
        self._open: set[Stream] = set()
        self._total = 0
        self._bytes_in = self._bytes_out = 0  # of streams that have ended

    @property
    def id(self) -> str:
        return self.about.tunnel_id

    @abstractmethod
    async def run(self) -> None:
        """Run until cancelled."""

    @abstractmethod
    def kept(self) -> Kept:
        """Its definition, as it is saved."""

    def failed(self, words: str) -> None:
        self.last_error = words[:MAX_ERROR]

    def took(self, stream: Stream) -> None:
        """Count a stream that goes through it."""
        self._open.add(stream)
        self._total += 1

    def ended(self, stream: Stream, outcome: Outcome) -> None:
        if stream in self._open:
            self._open.discard(stream)
            self._bytes_in += stream.bytes_in
            self._bytes_out += stream.bytes_out

    async def end_streams(self) -> int:
        """Reset its open streams; returns how many there were."""
        streams = list(self._open)
        for stream in streams:
            await stream.drop("reset")
        return len(streams)

    def record(self) -> TunnelRecord:
        about, forward = self.about, self.about.kind == "forward"
        return TunnelRecord(
            tunnel_id=self.id,
            kind=about.kind,
            protocol=about.protocol,
            keep=self.keep,
            open=len(self._open),
            total=self._total,
            bytes_in=self._bytes_in + sum(stream.bytes_in for stream in self._open),
            bytes_out=self._bytes_out + sum(stream.bytes_out for stream in self._open),
            peer_id=about.peer_id,
            target=None if forward else about.end,
            listen=self.kept().end if forward else None,
            peers=about.peers,
            proxy_protocol=about.proxy_protocol,
            lease=None if self.holder is None else "connection",
            last_error=self.last_error,
        )
