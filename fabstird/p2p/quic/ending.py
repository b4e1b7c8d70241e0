"""Why a connection has ended, in our words: who has ended it, and what whoever waits for it is told."""

from __future__ import annotations

from fabstird.p2p.quic.engine import Engine
from fabstird.p2p.security.secured import HandshakeFailed
from fabstird.p2p.wire.errors import ConnectionLost, PeerError

WORDS = 100  # characters of a peer's reason


def ending(engine: Engine) -> tuple[str | None, Exception]:
    """Of an engine that was closed: by the peer's word, for what the peer did, or because nothing came for too long.
    The link's reason, None where none is better than the error's own, and the error."""
    assert engine.closed_with is not None
    code, by_application, words = engine.closed_with
    words = "".join(one if one.isprintable() else "?" for one in words[:WORDS])
    if engine.is_draining:  # the peer has said so
        reason = "closed_by_peer" if by_application else "reset"
        kind = "" if by_application else "QUIC "
        if not engine.is_up:
            return reason, HandshakeFailed(f"the other side broke it off, {kind}error {code:#x}")
        return reason, ConnectionLost(f"closed by the other side, {kind}error {code:#x}")
    if words == "Idle timeout":
        return "timeout", ConnectionLost("nothing was heard for too long")
    return None, PeerError(f"QUIC error {code:#x}: {words}")
