"""Why a dial failed, in words that a person can act on. libp2p's own texts name its modules; these name the cause."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import trio
from libp2p.io.exceptions import IncompleteReadError, IOException
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from trio_websocket import ConnectionRejected, HandshakeError

_OS_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "this process has no file descriptors left",
    errno.ENFILE: "this machine has no file descriptors left",
    errno.EADDRNOTAVAIL: "no local address or port left to dial from",
}


_OS_KINDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "no resources",
    errno.ENFILE: "no resources",
    errno.EADDRNOTAVAIL: "no resources",
}


class DialError(Exception):
    """The dial failed; the message says why. ``kind`` is the metrics' word for it, of a small closed set: go-libp2p's
    "connection refused", "timeout", "deadline" (of the dial as a whole) and "other", and some of ours."""

    def __init__(self, words: str, kind: str = "other") -> None:
        super().__init__(words)
        self.kind = kind


class DialLimit(DialError):
    """A limit of this node forbids the dial."""

    def __init__(self, config_key: str, limit: int, current: int) -> None:
        super().__init__(f"this node has {current} connections and {config_key} allows {limit}", "limit")
        self.config_key = config_key
        self.limit = limit
        self.current = current


def in_words(error: BaseException) -> str:
    """One line for an error out of a dial or a handshake; the deepest cause that has words of its own wins."""
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, DialError):
            return str(one)
    for one in chain:
        if isinstance(one, PeerIDMismatchesPubkey) or "Peer ID mismatch" in str(one):
            return "another peer answers there: its peer id is not the one that was dialled"
    for one in chain:
        if isinstance(one, trio.TooSlowError):
            return "timed out"
        if isinstance(one, OSError) and not isinstance(one, IOException):
            return _OS_WORDS.get(one.errno or 0) or (one.strerror or str(one) or type(one).__name__).lower()
        if isinstance(one, ConnectionRejected):
            return f"the WebSocket upgrade was refused with status {one.status_code}"
    if any(isinstance(one, IncompleteReadError | IOException) for one in chain):
        return "the other side closed the connection during the handshake"
    if any(isinstance(one, MultiselectError | MultiselectClientError) for one in chain):
        return "the other side speaks no protocol in common (Noise and Yamux are needed)"
    if any(isinstance(one, HandshakeFailure) for one in chain):
        return "the Noise handshake failed"
    if any(isinstance(one, HandshakeError) for one in chain):
        return "the other side is no WebSocket server"
    last = chain[-1]
    return f"{type(last).__name__}: {last}" if str(last) else type(last).__name__


def failure(error: BaseException) -> DialError:
    """The error of a dial or a handshake as a `DialError`."""
    return DialError(in_words(error), _kind(error))


def _kind(error: BaseException) -> str:
    """The metrics' word, found as `in_words` finds its own."""
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, DialError):
            return one.kind
    if any(isinstance(one, PeerIDMismatchesPubkey) or "Peer ID mismatch" in str(one) for one in chain):
        return "other peer"
    for one in chain:
        if isinstance(one, trio.TooSlowError):
            return "timeout"
        if isinstance(one, OSError) and not isinstance(one, IOException):
            return _OS_KINDS.get(one.errno or 0, "other")
    upgrading = (IOException, MultiselectError, MultiselectClientError, HandshakeFailure, HandshakeError)
    return "handshake" if any(isinstance(one, upgrading) for one in chain) else "other"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        one = pending.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
        else:
            yield one
        if one.__cause__ is not None:
            pending.append(one.__cause__)
        elif one.__context__ is not None and not one.__suppress_context__:
            pending.append(one.__context__)
