"""``fabstir pipe``: connects standard input and output to a stream."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable

from fabstir_client._core import calls
from fabstir_client._core.discovery import CHUNK, Target
from fabstir_client._sync.listening import StreamListener
from fabstir_client._sync.stream import Stream
from fabstir_client.api.errors import FabstirError, StreamReset
from fabstir_client.api.streams import HandleParams
from fabstir_client.cli.format import clean

DONE, REFUSED, USAGE = 0, 1, 2


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    """Pass bytes on until both sides have ended. A reset is a failure."""
    if args.listen is not None:
        if args.peer is not None:
            return complain("pipe takes PEER PROTOCOL, or --listen PROTOCOL; see fabstir pipe --help", USAGE)
        return _listen(target, args.listen, keep=args.keep, complain=complain)
    if args.protocol is None or args.keep:
        return complain("pipe needs PEER and PROTOCOL, or --listen PROTOCOL; see fabstir pipe --help", USAGE)
    return _join(Stream.open(target, calls.open_stream(args.peer, args.protocol, None)), complain)


def _listen(target: Target, protocol: str, *, keep: bool, complain: Callable[[str, int], int]) -> int:
    status = DONE
    with StreamListener(target, HandleParams(protocol, mode="stream", backlog=None if keep else 1)) as listener:
        print(f"waiting for streams on {clean(protocol)}", file=sys.stderr, flush=True)
        for stream in listener:
            print(f"a stream from {clean(stream.peer_id)}", file=sys.stderr, flush=True)
            if not keep:
                listener.close()  # further streams are refused at once, instead of waiting
                return _join(stream, complain)
            status = _join(stream, complain)
    return status


def _join(stream: Stream, complain: Callable[[str, int], int]) -> int:
    stop, stopped = os.pipe()
    sending = threading.Thread(target=_send, args=(stream, stop), daemon=True)
    sending.start()
    try:
        for data in stream:
            view = memoryview(data)
            while view:
                view = view[os.write(sys.stdout.fileno(), view) :]
        sending.join()
    except StreamReset as error:
        return complain(str(error), REFUSED)
    except BaseException:
        stream.reset()
        raise
    finally:
        os.close(stopped)  # wakes the sender
        sending.join(1)
        os.close(stop)
        stream.close()
    return DONE


def _send(stream: Stream, stop: int) -> None:
    """Copy standard input to the stream, until it ends or the other end of ``stop`` is closed."""
    source = sys.stdin.fileno()
    with contextlib.suppress(FabstirError, ValueError, OSError):  # the reader of the stream reports them
        while True:
            try:
                ready, _, _ = select.select([source, stop], [], [])
            except ValueError:
                return
            if stop in ready:
                return
            data = os.read(source, CHUNK)
            if not data:
                stream.send_eof()
                return
            stream.write(data)
