"""TLS 1.3 (libp2p specification, tls): the handshake, and the encrypted connection that results from it.

OpenSSL does the cryptography, through pyOpenSSL: Python's own ``ssl`` cannot request a client's certificate without
verifying it against an authority, and nodes have none. `certificate` verifies the peer in the middle of the handshake,
so that TLS reports a refusal. Sessions are not resumed, no server name is sent, and no version below 1.3 is accepted.

This module is imported with the first connection that negotiates TLS, since OpenSSL's bindings take time and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio
from OpenSSL import SSL, crypto

from fabstird.p2p.security import certificate
from fabstird.p2p.security.keys import NodeKey, PeerKey
from fabstird.p2p.security.secured import TLS, HandshakeFailed, WrongPeer
from fabstird.p2p.transport.pipe import Pipe, Progress
from fabstird.p2p.wire.errors import ConnectionLost, NetworkError, PeerError

ALPN = b"libp2p"
OTHER_PROTOCOL = 'it does not speak "libp2p" inside TLS'
# bytes accepted of a peer before it has proven who it is; a certificate has at most half of that
MAX_HANDSHAKE = 16 * 1024
PART = 64 * 1024  # bytes decrypted, or encrypted, at once
SEALED = PART + 1024  # the most that they take encrypted
RECORD = 16 * 1024  # bytes that TLS encrypts in one record
TURN = 256  # records decrypted before other tasks get a turn, however short they are
# bytes of TLS's own messages that wait until we write: a peer that requests new keys all the time gets no more
MAX_OWED = 4096
# Most processors have instructions for the first of these
_CIPHERS = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"


class TlsConn:
    """An encrypted connection to ``peer_id``, whose key is of type ``key_type``. It has one reader and one writer at a
    time."""

    protocol = TLS

    def __init__(self, pipe: Pipe, engine: _Engine, key: PeerKey) -> None:
        self.is_initiator = pipe.is_initiator
        self.peer_id = key.peer_id
        self.key_type = key.kind
        self._pipe = pipe
        self._engine = engine

    async def read(self) -> bytes:
        """The bytes received, at least one. Raises `ConnectionLost`, `PeerError`."""
        if self._engine.more:
            await trio.lowlevel.checkpoint()
        while not (data := self._engine.decrypted()):
            self._engine.feed(await self._pipe.read(PART))
        return data

    async def write(self, data: bytes) -> None:
        """Send all of ``data``. Raises `ConnectionLost`."""
        for start in range(0, len(data), PART):
            await self._pipe.write(self._engine.encrypted(data[start : start + PART]))

    def write_now(self, data: bytes | bytearray) -> None:
        """As `Secured.write_now`."""
        raise NotImplementedError

    def finish_now(self) -> None:
        """As `Secured.finish_now`."""
        raise NotImplementedError

    writes_now = owing = False

    def progress(self) -> Progress:
        """The progress of the connection below."""
        return self._pipe.progress()

    async def finish(self) -> None:
        """Send TLS's close_notify, and end our side."""
        try:
            await self._pipe.write(self._engine.goodbye())
        except NetworkError:
            pass  # the other side closed first
        await self._pipe.finish()

    async def close(self) -> None:
        """Close the connection below at once."""
        await self._pipe.close()


@dataclass(slots=True)
class _Peer:
    """What a handshake learns about the peer. It is separate from the engine, which would otherwise be in a reference
    cycle with OpenSSL's connection: only the garbage collector ends a cycle, and it does not see the 60 KiB that
    OpenSSL holds for each."""

    expected: str | None
    key: PeerKey | None = None  # set once the peer has shown a valid certificate


class _Engine:
    """TLS without a socket: received bytes go in, bytes to send come out."""

    def __init__(self, context: SSL.Context, *, initiator: bool, expected: str | None) -> None:
        self._peer = _Peer(expected)
        self._tls = SSL.Connection(context, None)
        self._tls.set_app_data(self._peer)
        self._owed = b""
        self.more = False  # some received bytes may not be decrypted yet
        self._ended: Callable[[], NetworkError] | None = None  # raised once everything before it is read
        self._initiator = initiator
        if initiator:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()

    def feed(self, data: bytes) -> None:
        self._tls.bio_write(data)

    def shake(self) -> bool:
        """Continue the handshake with the bytes received; True once it is done. Raises `HandshakeFailed`."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise HandshakeFailed(_words(error)) from error
        return True

    def outgoing(self) -> bytes:
        """The bytes to send, each once."""
        data, self._owed = self._owed, b""
        try:
            more = True
            while more:
                part = self._tls.bio_read(SEALED)
                data = data + part if data else part
                more = len(part) == SEALED
        except SSL.WantReadError:
            pass
        return data

    def decrypted(self) -> bytes:
        """The decrypted bytes; with ``more``, there may be further ones. Raises `ConnectionLost`, `PeerError`."""
        if self._ended is not None:
            raise self._ended()
        parts: list[bytes] = []
        try:
            while len(parts) < TURN:
                parts.append(self._tls.recv(RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._ended = partial(ConnectionLost, "closed by the other side")
        except SSL.Error as error:
            self._ended = partial(PeerError, _words(error))
        if self._ended is not None and not parts:
            raise self._ended()
        self.more = len(parts) == TURN
        self._owed = self.outgoing()  # answers to key updates, which are sent before anything encrypted later
        if len(self._owed) > MAX_OWED:
            raise PeerError("it asks for new keys again and again")
        return b"".join(parts)

    def encrypted(self, data: bytes) -> bytes:
        try:
            self._tls.sendall(data)
        except SSL.Error as error:
            raise ConnectionLost(_words(error)) from error
        return self.outgoing()

    def goodbye(self) -> bytes:
        try:
            self._tls.shutdown()
        except SSL.Error:
            pass  # it is broken, and there is nothing to say
        return self.outgoing()

    def agreed(self) -> PeerKey:
        """The peer's key, once the handshake is done. Raises `HandshakeFailed`."""
        # js-libp2p 1.x negotiates no protocol here, and need not
        if self._tls.get_alpn_proto_negotiated() not in (ALPN, b""):
            raise HandshakeFailed(OTHER_PROTOCOL)
        if self._peer.key is None:
            raise HandshakeFailed("it has shown no certificate")
        chain = self._tls.get_peer_cert_chain() or []
        if len(chain) > (1 if self._initiator else 0):  # OpenSSL counts a server's own certificate, but not a client's
            raise HandshakeFailed("it has shown more than one certificate")
        return self._peer.key


class Tls:
    """The handshakes of one node, with one certificate."""

    def __init__(self, key: NodeKey) -> None:
        own, shown = certificate.make(key)
        self._context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_tls13_ciphersuites(_CIPHERS)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # saves 34 KiB for an idle connection
        context.use_certificate(shown)
        context.use_privatekey(own)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        context.set_alpn_protos([ALPN])
        context.set_alpn_select_callback(_select)

    async def secure(self, pipe: Pipe, expected: str | None = None) -> TlsConn:
        """Shake hands; the dialler begins. ``expected`` is the peer that must be at the other end; None for any. The
        caller sets the deadline.

        Raises `WrongPeer`, `HandshakeFailed`, `ConnectionLost`.
        """
        engine = _Engine(self._context, initiator=pipe.is_initiator, expected=expected)
        came = 0
        while True:
            try:
                done = engine.shake()
            except HandshakeFailed:
                await _tell(pipe, engine)
                raise
            if out := engine.outgoing():
                await pipe.write(out)
            if done:
                return TlsConn(pipe, engine, engine.agreed())
            data = await pipe.read()
            came += len(data)
            if came > MAX_HANDSHAKE:
                raise HandshakeFailed(f"its handshake has more than {MAX_HANDSHAKE} bytes")
            engine.feed(data)


async def _tell(pipe: Pipe, engine: _Engine) -> None:
    """Report the failure by a TLS alert."""
    try:
        await pipe.write(engine.outgoing())
    except NetworkError:
        pass  # it has gone


def _verify(connection: SSL.Connection, shown: crypto.X509, _error: int, depth: int, _ok: int) -> bool:
    """Called in the handshake for each of OpenSSL's objections to the certificate, and once where it has none. Our own
    verification decides, at the first call. What is raised here leaves `do_handshake`."""
    peer: _Peer = connection.get_app_data()
    if depth > 0:
        raise HandshakeFailed("it has shown more than one certificate")
    if peer.key is None:
        key = certificate.verify(crypto.dump_certificate(crypto.FILETYPE_ASN1, shown))
        if peer.expected not in (None, key.peer_id):
            raise WrongPeer(f"{key.peer_id} answers there")
        peer.key = key
    return True


def _select(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Called where a client offers protocols. What is raised here leaves `do_handshake`, and is reported to the
    client."""
    if ALPN not in offered:
        raise HandshakeFailed(OTHER_PROTOCOL)
    return ALPN


def _words(error: SSL.Error) -> str:
    """OpenSSL's error texts, of which it has a fixed set: nothing in them comes from the peer."""
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return f"TLS: {reasons[0][2]}" if reasons else "TLS was broken off"
