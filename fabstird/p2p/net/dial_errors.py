"""Why a dial failed, in words that a person can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import trio
from trio_websocket import ConnectionRejected, HandshakeError

from fabstird.p2p.security.secured import HandshakeFailed, WrongPeer
from fabstird.p2p.wire.errors import ConnectionLost, EndOfStream, NetworkError, StreamReset, TlsFailed
from fabstird.p2p.wire.multistream import NegotiationError

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
    """The dial failed; the message says why. ``kind`` is its label in the metrics, from a small closed set: go-libp2p's
    "connection refused", "timeout", "deadline" (of the whole dial) and "other", and some of ours."""

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


def only_cancelled(group: BaseExceptionGroup) -> BaseException:
    """The cancellation in a group that holds one and errors raised at the same moment."""
    cancelled = group.split(Exception)[1]
    assert cancelled is not None, "else it were an ExceptionGroup"
    return cancelled


def in_words(error: BaseException) -> str:
    """One line for an error of a dial or a handshake: the words of the deepest cause that has any."""
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, DialError):
            return str(one)
    for one in chain:
        if isinstance(one, WrongPeer):
            return "another peer answers there: its peer id is not the one that was dialled"
    for one in chain:
        if isinstance(one, TlsFailed):  # before its cause, an error of `ssl`, which is an OSError
            return str(one)
        if isinstance(one, trio.TooSlowError):
            return "timed out"
        if isinstance(one, OSError):
            return _OS_WORDS.get(one.errno or 0) or (one.strerror or str(one) or type(one).__name__).lower()
        if isinstance(one, ConnectionRejected):
            return f"the WebSocket upgrade was refused with status {one.status_code}"
    if any(isinstance(one, ConnectionLost | StreamReset | EndOfStream) for one in chain):
        return "the other side closed the connection during the handshake"
    if any(isinstance(one, NegotiationError) for one in chain):
        return "the other side speaks no protocol in common (Noise or TLS, and Yamux)"
    for one in chain:
        if isinstance(one, HandshakeFailed):
            return f"the handshake failed: {one}"
    if any(isinstance(one, HandshakeError) for one in chain):
        return "the other side is no WebSocket server"
    last = chain[-1]
    return f"{type(last).__name__}: {last}" if str(last) else type(last).__name__


def failure(error: BaseException) -> DialError:
    """The error of a dial or a handshake, as a `DialError`."""
    return DialError(in_words(error), _kind(error))


def _kind(error: BaseException) -> str:
    """The label in the metrics, found as `in_words` finds its words."""
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, DialError):
            return one.kind
    if any(isinstance(one, WrongPeer) for one in chain):
        return "other peer"
    for one in chain:
        if isinstance(one, TlsFailed):
            return "handshake"
        if isinstance(one, trio.TooSlowError):
            return "timeout"
        if isinstance(one, OSError):
            return _OS_KINDS.get(one.errno or 0, "other")
    upgrading = (NetworkError, HandshakeError)
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
