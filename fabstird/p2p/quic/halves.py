"""The two halves of one of aioquic's streams: what we send and the peer has not acknowledged, and what comes."""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver

_STOP = attrgetter("stop")


class _Ranges(RangeSet):
    """As aioquic's, whose `add` looks at each range from the first on: a peer that sends every other byte keeps that
    busy for seconds with one datagram."""

    def add(self, start: int, stop: int | None = None) -> None:
        stop = start + 1 if stop is None else stop
        ranges = self._listed()
        if ranges and ranges[-1].stop == start:
            ranges[-1] = range(ranges[-1].start, stop)
            return
        first = last = bisect_left(ranges, start, key=_STOP)
        while last < len(ranges) and ranges[last].start <= stop:
            start, stop = min(start, ranges[last].start), max(stop, ranges[last].stop)
            last += 1
        ranges[first:last] = [range(start, stop)]

    def _listed(self) -> list[range]:
        return self._RangeSet__ranges  # type: ignore[attr-defined, no-any-return]

    def shorten(self, start: int) -> None:
        """The first one begins at ``start``, which is in it."""
        ranges = self._listed()
        ranges[0] = range(start, ranges[0].stop)


class _Dropping(QuicStreamReceiver):
    """The half of a stream that nobody reads any more. It counts what comes, for the windows and for the stream's end,
    and keeps nothing."""

    def __init__(self, before: QuicStreamReceiver) -> None:
        super().__init__(stream_id=before._stream_id, readable=True)
        self.highest_offset = before.highest_offset
        self._final_size = before._final_size
        self._stop_error_code = before._stop_error_code
        self.stop_pending = before.stop_pending
        self.is_finished = before.is_finished or self._final_size is not None

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        end = frame.offset + len(frame.data)
        if self._final_size is not None and (end > self._final_size or (frame.fin and end != self._final_size)):
            raise FinalSizeError("Data received beyond final size")
        if frame.fin and end < self.highest_offset:
            raise FinalSizeError("Data received beyond final size")
        self.highest_offset = max(self.highest_offset, end)
        if not frame.fin or self.is_finished or self._stream_id is None:
            return None
        self._final_size = end
        self.is_finished = True
        return StreamDataReceived(data=b"", end_stream=True, stream_id=self._stream_id)


def prepare(stream: QuicStream) -> None:
    """A peer has begun it."""
    if type(stream.receiver._ranges) is RangeSet:
        stream.receiver._ranges = _Ranges(stream.receiver._ranges)


def ranges() -> RangeSet:
    """None yet; quick where they are added at the end."""
    return _Ranges()


def in_order(stream: QuicStream, offset: int, end: int) -> bool:
    """Whether a frame without an end follows on all that has come, within its window; then it is counted as come."""
    receiver = stream.receiver
    if (
        type(receiver) is not QuicStreamReceiver
        or offset != receiver._buffer_start
        or end == offset
        or len(receiver._buffer)
        or receiver.is_finished
        or receiver._final_size is not None
        or end > stream.max_stream_data_local
    ):
        return False
    receiver.highest_offset = receiver._buffer_start = end
    return True


def pieces(stream: QuicStream) -> int:
    """Pieces of it that have come out of order, each with a gap before it."""
    return len(stream.receiver._ranges)


def drop(stream: QuicStream) -> None:
    """Nobody reads it any more: what has come out of order is dropped, and so is what still comes."""
    if not isinstance(stream.receiver, _Dropping):
        stream.receiver = _Dropping(stream.receiver)


def receives(stream: QuicStream) -> bool:
    """Whether something of it may still come."""
    return not stream.receiver.is_finished


def stop(stream: QuicStream, code: int) -> None:
    """Ask the peer to send no more of it, and send no more either. One that the peer has not yet allowed to be opened
    is ended once it has: told of it before, the peer would end the connection."""
    if stream.is_blocked:
        stream.receiver._stop_error_code = code
        return
    if not stream.receiver.is_finished:
        stream.receiver.stop(code)
    stream.sender.reset(code)


def unblocked(stream: QuicStream) -> None:
    """The peer allows it to be opened."""
    if (code := stream.receiver._stop_error_code) is not None:
        stop(stream, code)


def _is_reset(stream: QuicStream) -> bool:
    waits = stream.is_blocked and stream.receiver._stop_error_code is not None
    return waits or stream.sender._reset_error_code is not None


def write(stream: QuicStream, data: bytes, *, last: bool = False) -> None:
    """Send it, and with ``last`` the end; the caller has looked that nothing forbids it."""
    stream.sender.write(data, end_stream=last)


def waits_to_send(stream: QuicStream) -> bool:
    """Whether something of it is to be sent, which the peer allows to be opened."""
    some = not stream.sender.buffer_is_empty or stream.sender.reset_pending or stream.receiver.stop_pending
    return some and not stream.is_blocked


def cut_out(stream: QuicStream, size: int, limit: int) -> tuple[int, bytes] | None:
    """Its next ``size`` bytes to be sent and where they begin, up to the offset ``limit``; None where there are no more
    than that, or where it has something else to send."""
    sender = stream.sender
    if stream.receiver.stop_pending or sender._reset_error_code is not None or not len(sender._pending):
        return None
    first = sender._pending[0]
    stop = first.start + size
    if stop >= first.stop or stop > limit:
        return None
    at = first.start - sender._buffer_start
    if type(sender._pending) is not _Ranges:
        sender._pending = _Ranges(sender._pending)
    sender._pending.shorten(stop)
    sender.highest_offset = max(sender.highest_offset, stop)
    return first.start, bytes(sender._buffer[at : at + size])


def delivered(delivery: QuicDeliveryState, stream: QuicStream, start: int, stop: int) -> None:
    """What `cut_out` has given was acknowledged, or is lost."""
    sender = stream.sender
    if (
        delivery is QuicDeliveryState.ACKED
        and start == sender._buffer_start
        and sender._reset_error_code is None
        and sender._buffer_fin is None
        and not len(sender._acked)
    ):
        sender._buffer_start = stop
        del sender._buffer[: stop - start]
    else:
        sender.on_data_delivery(delivery, start, stop, False)


def writes(stream: QuicStream) -> bool:
    """Whether something may still be written: neither its end nor a reset was."""
    return stream.sender._buffer_fin is None and not _is_reset(stream)


def owed(stream: QuicStream) -> int:
    """Bytes that were written and that the peer has not acknowledged; a reset stream owes none."""
    return 0 if _is_reset(stream) else len(stream.sender._buffer)


def allowed(stream: QuicStream) -> int:
    """Bytes that the peer's window for this stream takes beyond what was written."""
    return max(0, int(stream.max_stream_data_remote) - int(stream.sender._buffer_stop))


def forget(stream: QuicStream) -> None:
    """What was written and is not sent any more, because the stream was reset, takes no memory."""
    if _is_reset(stream):
        stream.sender._buffer.clear()
