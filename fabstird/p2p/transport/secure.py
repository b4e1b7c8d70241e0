"""TLS around a WebSocket, as browsers and web servers use it: certificates from authorities, for names.

The peer's identity is proven inside, by Noise or libp2p's own TLS. This module is imported with the first such
connection or listener.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trio

from fabstird.datadir import read_regular
from fabstird.p2p.wire.errors import ConnectionLost, TlsFailed
from fabstird.threads import on_disk

_trusted: ssl.SSLContext | None = None  # the system's authorities, which take some 20 ms to read


class CertificateError(Exception):
    """A certificate file cannot be used; the message names it and says why."""


class ServerCertificate:
    """The certificate that listeners present, from PEM files: the certificate with its chain, and its key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._context: ssl.SSLContext | None = None

    def load(self) -> None:
        """Read the files, for new connections. It blocks. Raises `CertificateError`; the certificate read before then
        stays in use."""
        for path in (self._certificate, self._key):
            try:
                read_regular(path, 1)
            except OSError as error:
                raise CertificateError(f"{path} cannot be read: {error.strerror or error}") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise CertificateError(f"{self._certificate} and {self._key} do not serve: {_words(reason)}") from error
        self._context = context

    async def accept(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        """Shake hands as the server. The caller sets the deadline. Raises `TlsFailed`."""
        assert self._context is not None
        return await _shaken(trio.SSLStream(stream, self._context, server_side=True, https_compatible=True), None)


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # otherwise OpenSSL would ask at the terminal


async def connect(stream: trio.abc.Stream, name: str) -> trio.SSLStream[trio.abc.Stream]:
    """Shake hands as the client. The server must have a certificate for ``name``, a DNS name or an IP address, from an
    authority that this system trusts. The caller sets the deadline. Raises `TlsFailed`, `ConnectionLost`."""
    global _trusted
    if _trusted is None:
        _trusted = await on_disk(_system_trust)
    try:
        secured = trio.SSLStream(stream, _trusted, server_hostname=name, https_compatible=True)
    except ValueError as error:
        raise TlsFailed(f"{name!r} is no name that a certificate can be for") from error
    return await _shaken(secured, name)


def _system_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _shaken(stream: trio.SSLStream[trio.abc.Stream], name: str | None) -> trio.SSLStream[trio.abc.Stream]:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = cause.verify_message.rstrip(".")
            raise TlsFailed(f"the certificate that is shown for {name} is not trusted: {words}") from cause
        if isinstance(cause, ssl.SSLError):
            raise TlsFailed(f"TLS failed: {_words(cause.reason or 'no reason is given')}") from cause
        raise ConnectionLost("connection reset during the TLS handshake") from error
    return stream


def _words(reason: str) -> str:
    """OpenSSL's NAME_OF_A_REASON, as words."""
    return reason.lower().replace("_", " ") if reason.isupper() else reason
