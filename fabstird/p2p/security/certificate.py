"""Certificates of peers (libp2p specification, tls): making our own, and verifying others'.

A libp2p certificate is self-signed by a key made for it. An extension carries the node's key, and that key's signature
over the certificate's key. A stranger chooses its bytes, so they are bounded before they are parsed, nothing is read
that the specification does not need, and no name, authority or chain in it counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from fabstird.p2p.security import keys
from fabstird.p2p.security.keys import NodeKey, PeerKey
from fabstird.p2p.security.secured import HandshakeFailed

EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
PREFIX = b"libp2p-tls-handshake:"  # of the signed text
MAX_CERTIFICATE = 8192  # bytes; with RSA keys of 8,192 bits in both places it has some 4,500
VALID = timedelta(days=36525)  # of ours, which is made anew at each start of the node
BACKDATED = timedelta(hours=1)  # for peers whose clock is behind

# Critical extensions that are harmless in a self-signed certificate; any other ends the handshake
_UNDERSTOOD = {
    EXTENSION,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class BadCertificate(HandshakeFailed):
    """The certificate is not valid; the message says why."""


def make(key: NodeKey) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A new certificate for our node, and its private key. The extension comes first: js-libp2p looks nowhere else."""
    own = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(PREFIX + _spki(own.public_key()))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "libp2p")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(int.from_bytes(os.urandom(8), "big") >> 1 or 1)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + VALID)
        .public_key(own.public_key())
        .add_extension(x509.UnrecognizedExtension(EXTENSION, _pack(key.public, signature)), critical=False)
    )
    return own, builder.sign(own, hashes.SHA256())


def verify(encoded: bytes) -> PeerKey:
    """The node's key from a certificate (DER). Raises `BadCertificate`."""
    if len(encoded) > MAX_CERTIFICATE:
        raise BadCertificate(f"a certificate of {len(encoded)} bytes; {MAX_CERTIFICATE} are taken at most")
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        if not encoded.endswith(b"\0" + certificate.signature):  # 0: none of its last bits is left out
            raise BadCertificate("the signature of its certificate is not one of whole bytes")
        return _verified(certificate)
    except BadCertificate:
        raise
    except keys.BadKey as error:
        raise BadCertificate(f"its key is not taken: {error}") from error
    except Exception as error:  # whatever the library raises at a stranger's bytes
        raise BadCertificate("its certificate cannot be read") from error


def _verified(certificate: x509.Certificate) -> PeerKey:
    now = datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        raise BadCertificate("its certificate is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise BadCertificate("its certificate has expired")
    _check_own_signature(certificate)
    proof = None
    for extension in certificate.extensions:
        if extension.oid == EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            proof = extension.value.value
        elif extension.critical and extension.oid not in _UNDERSTOOD:
            raise BadCertificate("its certificate has a critical extension that libp2p does not have")
    if proof is None:
        raise BadCertificate("its certificate lacks libp2p's extension")
    public, signature = _unpack(proof)
    key = keys.decode(public)
    if not key.verify(PREFIX + _spki(certificate.public_key()), signature):
        raise BadCertificate("its key has not signed its certificate")
    return key


def _check_own_signature(certificate: x509.Certificate) -> None:
    key, hashed = certificate.public_key(), certificate.signature_hash_algorithm
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    if isinstance(key, ed25519.Ed25519PublicKey):
        _check(lambda: key.verify(signature, signed))
        return
    if not isinstance(hashed, _HASHES):
        raise BadCertificate("its certificate is signed with an algorithm that is not taken")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in keys.CURVES:
        _check(lambda: key.verify(signature, signed, ec.ECDSA(hashed)))
        return
    if not isinstance(key, rsa.RSAPublicKey):
        raise BadCertificate("its certificate has a key that is not taken")
    if not keys.MIN_RSA <= key.key_size <= keys.MAX_RSA or key.public_numbers().e > keys.MAX_EXPONENT:
        raise BadCertificate(f"its certificate has an RSA key that is not taken, of {key.key_size} bits")
    padded = certificate.signature_algorithm_parameters
    if not isinstance(padded, padding.PKCS1v15 | padding.PSS):
        raise BadCertificate("its certificate is signed with an algorithm that is not taken")
    _check(lambda: key.verify(signature, signed, padded, hashed))


def _check(verify: Callable[[], None]) -> None:
    try:
        verify()
    except InvalidSignature as error:
        raise BadCertificate("its certificate is not signed by its own key") from error


def _spki(key: object) -> bytes:
    assert isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# --------------------------------------------------------------------------------------------------------------------
# The extension's value: SEQUENCE { publicKey OCTET STRING, signature OCTET STRING }, in DER

_SEQUENCE, _OCTETS = 0x30, 0x04


def _pack(public: bytes, signature: bytes) -> bytes:
    return _element(_SEQUENCE, _element(_OCTETS, public) + _element(_OCTETS, signature))


def _element(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes((size,)) if size < 0x80 else bytes((0x82, size >> 8, size & 0xFF))
    return bytes((tag,)) + (bytes((0x81, size)) if 0x80 <= size < 0x100 else length) + value


def _unpack(value: bytes) -> tuple[bytes, bytes]:
    whole, rest = _take(_SEQUENCE, value)
    public, signature = _take(_OCTETS, whole)
    signature, after = _take(_OCTETS, signature)
    if rest or after:
        raise BadCertificate("libp2p's extension of its certificate cannot be read")
    return public, signature


def _take(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """The value of the first element, and what follows it. Only DER's canonical encoding of a length is accepted."""
    start, size = 2, data[1] if len(data) >= 2 else 0
    if size in (0x81, 0x82):
        start, size = size - 0x7E, int.from_bytes(data[2 : size - 0x7E], "big")
        minimal = size >= (0x80 if start == 3 else 0x100)
    else:
        minimal = size < 0x80
    if len(data) < start + size or data[0] != tag or not minimal:
        raise BadCertificate("libp2p's extension of its certificate cannot be read")
    return data[start : start + size], data[start + size :]
