"""Streams with a protocol: the table of handlers for those that peers open, and opening our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext

import trio

from fabstird.log.logger import get_logger
from fabstird.p2p.host.opening import (
    NEGOTIATION,
    ProtocolUnsupported,
    StreamBusy,
    StreamError,
    StreamRefused,
    ended_early,
)
from fabstird.p2p.muxer.frame import NEGOTIATION_FAILED
from fabstird.p2p.net.link import Link, cut
from fabstird.p2p.net.stream import Stream
from fabstird.p2p.wire import multistream
from fabstird.p2p.wire.errors import NetworkError
from fabstird.p2p.wire.multistream import NegotiationError, ProtocolNotSupported

log = get_logger("p2p.host")

LINGER = 10.0  # seconds that a peer has to end its side of a stream, once we are done

Handler = Callable[[Stream], Awaitable[None]]


Refuse = Callable[[Link], int | None]  # whose: the error code with which a stream is reset; None to take it


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Streams:
    """The table of handlers, and opening streams. ``tasks`` is set while the host is up."""

    def __init__(self) -> None:
        self.tasks: trio.Nursery | None = None
        self._handlers: dict[str, Handler] = {}
        self._refusals: dict[str, Refuse] = {}

    def handle(self, protocol: str, handler: Handler, refuse: Refuse | None = None) -> None:
        """Handle a protocol. An exception that leaves ``handler`` resets that stream and is counted, nothing else.
        ``refuse`` is asked before a stream is negotiated."""
        self._handlers[protocol] = handler
        if refuse is not None:
            self._refusals[protocol] = refuse

    def unhandle(self, protocol: str) -> None:
        """Stop handling a protocol; open streams go on."""
        self._handlers.pop(protocol, None)
        self._refusals.pop(protocol, None)

    def protocols(self) -> list[str]:
        """The protocols that are handled."""
        return list(self._handlers)

    async def serve(self, stream: Stream) -> None:
        """Serve a stream that a peer has opened: negotiate its protocol, and call the handler."""
        try:
            with trio.fail_after(NEGOTIATION):
                known = _Known(self._handlers, self._refusals, stream.link)
                protocol, rest = await multistream.answer(stream.read, stream.write, known)
        except NegotiationError as error:
            log.debug("no protocol agreed on", peer=stream.peer_id, error=str(error))
            await cut(stream, NEGOTIATION_FAILED)
            return
        except _Refused as refused:
            await cut(stream, refused.code)
            return
        stream.agree(protocol, rest)
        handler = self._handlers.get(protocol)
        if handler is None:  # removed while our answer was on its way
            await cut(stream)
            return
        await handler(stream)

    @asynccontextmanager
    async def open(
        self, link: Link, protocol: str, *, in_turns: bool = False, first: bytes = b"", bounded: bool = False
    ) -> AsyncIterator[Stream]:
        """A stream on a link, negotiated for ``protocol``. Our side is closed on leaving; on any error the stream is
        reset.

        Raises `StreamError`, also for what the peer does inside the block. For ``in_turns`` and ``first`` see
        `multistream.ask`. ``bounded``: the caller sets the deadline of the negotiation, too.
        """
        stream = None
        try:
            stream = link.open_stream()
            try:
                with nullcontext() if bounded else trio.fail_after(NEGOTIATION):
                    rest = await multistream.ask(stream.read, stream.write, protocol, in_turns=in_turns, first=first)
            except trio.TooSlowError as error:
                raise NegotiationError("timed out") from error
            stream.agree(protocol, rest)
            yield stream
            await stream.close_write()
            if self.tasks is not None and not stream.done:
                link.fence.spawn(self.tasks, "stream", _let_go, stream)
        except BaseException as error:
            if stream is not None:
                await cut(stream)
            if isinstance(error, ProtocolNotSupported):
                raise ProtocolUnsupported(f"{link.peer_id} does not speak {protocol}") from error
            if isinstance(error, NegotiationError):
                raise StreamError(f"{link.peer_id} did not agree on {protocol}: {error}") from error
            if isinstance(error, Exception):
                early = ended_early(stream, link.peer_id)
                if isinstance(early, StreamBusy | StreamRefused):
                    raise early from error
            if isinstance(error, Exception) and not isinstance(error, StreamError | trio.TooSlowError):
                if not isinstance(error, NetworkError):
                    link.fence.note("stream", error, peer=link.peer_id, protocol=protocol)
                raise StreamError(
                    f"the stream to {link.peer_id} failed: {str(error) or type(error).__name__}"
                ) from error
            raise
        finally:
            if stream is not None:
                stream.release()


class _Known:
    """The handled protocols, for one stream of a peer."""

    def __init__(self, handlers: dict[str, Handler], refusals: dict[str, Refuse], link: Link) -> None:
        self._handlers = handlers
        self._refusals = refusals
        self._link = link

    def __contains__(self, protocol: object) -> bool:
        """Whether the protocol is handled. Raises `_Refused` where it is handled, but not for this peer now."""
        if protocol not in self._handlers:
            return False
        refuse = self._refusals.get(str(protocol))
        if refuse is not None and (code := refuse(self._link)) is not None:
            raise _Refused(code)
        return True


async def _let_go(stream: Stream) -> None:
    """Release a stream that we are done with; the other side has a moment to end it."""
    with trio.move_on_after(LINGER):
        try:
            await stream.read(1)
        except NetworkError:
            return  # it has ended already
    await cut(stream)
