"""``fabstir perf``: measures the throughput to and from a peer, by libp2p's perf protocol."""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fabstir_client._core import calls
from fabstir_client._core.discovery import Target
from fabstir_client._sync.stream import Stream
from fabstir_client.api.errors import StreamFailed
from fabstir_client.cli.format import clean

PERF = "/perf/1.0.0"
BLOCK = bytes(64 * 1024)
EVERY = 0.1  # seconds between updates of the bar
WIDTH = 30  # characters of the bar
MIB = 1024 * 1024
DONE, REFUSED = 0, 1
Draw = Callable[[int], None]


def run(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    """Send, end our side, and read. The upload has ended when the peer begins to answer."""
    try:
        return _measure(target, args, complain)
    except StreamFailed as error:
        if error.data.get("reason") != "unsupported":
            raise
        return complain(f"{error}; fabstird does so only with [streams] perf = true", REFUSED)


def _measure(target: Target, args: argparse.Namespace, complain: Callable[[str, int], int]) -> int:
    with Stream.open(target, calls.open_stream(args.peer, PERF, None)) as stream:
        began = time.perf_counter()
        stream.write(struct.pack("!Q", args.download))
        with _bar("upload", args.upload) as draw:
            _send(stream, args.upload, draw)
            first = stream.read()
            turned = time.perf_counter()
        with _bar("download", args.download) as draw:
            received = _receive(stream, first, args.download, draw)
        ended = time.perf_counter()
    if received != args.download:
        amount = f"{received} of {args.download}" if received < args.download else f"more than {args.download}"
        return complain(f"{clean(args.peer)} sent {amount} bytes", REFUSED)
    result = {
        "upload": {"bytes": args.upload, "seconds": turned - began},
        "download": {"bytes": args.download, "seconds": ended - turned},
    }
    print(json.dumps(result) if args.json else _shown(result))
    return DONE


def _send(stream: Stream, size: int, draw: Draw) -> None:
    sent = 0
    while sent < size:
        sent += stream.write(BLOCK[: size - sent] if size - sent < len(BLOCK) else BLOCK)
        draw(sent)
    stream.send_eof()


def _receive(stream: Stream, first: bytes, size: int, draw: Draw) -> int:
    """Read to the end, or until more than ``size`` bytes have come. Returns the number of bytes received."""
    received = len(first)
    while first and received <= size:
        draw(received)
        first = stream.read()
        received += len(first)
    return received


def _shown(result: dict[str, dict[str, float]]) -> str:
    lines = []
    for direction, measured in result.items():
        count, seconds = measured["bytes"], measured["seconds"]
        if count:
            rate = count / max(seconds, 1e-9) / MIB
            lines.append(f"{direction:<9} {count / MIB:.1f} MiB in {seconds:.2f} s: {rate:.1f} MiB/s")
    return "\n".join(lines) or "nothing to measure"


@contextmanager
def _bar(what: str, size: int) -> Iterator[Draw]:
    """A progress bar on a terminal; elsewhere it draws nothing."""
    if not sys.stderr.isatty() or not size:
        yield lambda done: None
        return
    due = began = time.perf_counter()

    def draw(done: int) -> None:
        nonlocal due
        now = time.perf_counter()
        if now >= due or done >= size:
            due = now + EVERY
            filled = "#" * (WIDTH * done // size)
            rate = done / max(now - began, 1e-9) / MIB
            sys.stderr.write(f"\r{what:<9} [{filled:<{WIDTH}}] {100 * done // size:3}% {rate:8.1f} MiB/s")
            sys.stderr.flush()

    try:
        yield draw
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
