"""Certificates as strangers may show them, right or wrong in one way, and a peer of TLS that shows them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.support.wire import Identity

OID = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
PREFIX = b"libp2p-tls-handshake:"
Key = Any  # a private key of any kind
OTHER = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.53594.9.9"), b"\x05\x00")
CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)


def der(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def proof(identity: Identity, key: Key, *, prefix: bytes = PREFIX) -> bytes:
    """The extension's value: the node's key, and its signature over the certificate's."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der(0x30, der(0x04, identity.public_key) + der(0x04, identity.sign(prefix + spki)))


def certificate(
    identity: Identity,
    key: Key | None = None,
    *,
    extension: bytes | Callable[[Key], bytes] | None = None,
    left_out: bool = False,
    critical: bool = False,
    before: Sequence[tuple[x509.ExtensionType, bool]] = (),
    after: Sequence[tuple[x509.ExtensionType, bool]] = (),
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=1),
    signer: Key | None = None,
    hashed: Any = hashes.SHA256(),  # noqa: B008 - it has no state
) -> tuple[x509.Certificate, Key]:
    """A certificate for a node, and its key. Right as it is; each argument makes it another one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of a test")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .public_key(key.public_key())
    )
    value = extension(key) if callable(extension) else extension or proof(identity, key)
    middle = [] if left_out else [(x509.UnrecognizedExtension(OID, value), critical)]
    for one, is_critical in [*before, *middle, *after]:
        builder = builder.add_extension(one, critical=is_critical)
    signer = signer or key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashed), key


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


class TlsPeer:
    """TLS by hand, for either role: shows what it is given, and takes whatever it is shown."""

    def __init__(
        self,
        shown: Sequence[x509.Certificate],
        key: Key | None,
        *,
        alpn: Sequence[bytes] = (b"libp2p",),
        version: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self.secrets: dict[bytes, bytes] = {}  # as in a key log file, by their labels
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_keylog_callback(lambda _, line: self._learn(line))
        context.set_max_proto_version(version)
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        if key is not None:
            context.use_certificate(shown[0])
            context.use_privatekey(key)
            for further in shown[1:]:
                context.add_extra_chain_cert(further)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if alpn:
            context.set_alpn_protos(list(alpn))
            context.set_alpn_select_callback(lambda _, offered: next((one for one in alpn if one in offered), alpn[0]))

    def _learn(self, line: bytes) -> None:
        label, _, secret = line.split()
        self.secrets[label] = bytes.fromhex(secret.decode())

    async def shake(
        self, read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]], *, initiator: bool
    ) -> SSL.Connection:
        """The handshake; raises `SSL.Error` where the other side gives it up."""
        connection = SSL.Connection(self.context, None)
        (connection.set_connect_state if initiator else connection.set_accept_state)()
        while True:
            failure: SSL.Error | None = None
            done = False
            try:
                connection.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                failure = error
            try:
                await write(connection.bio_read(1 << 20))  # an alert, where it has failed
            except SSL.WantReadError:
                pass
            if failure is not None:
                raise failure
            if done:
                return connection
            connection.bio_write(await read())


def new_keys_again_and_again(secret: bytes, count: int) -> bytes:
    """Records by which a sender changes its keys so many times, and asks the other side to change its own (RFC 8446,
    4.6.3 and 7.2). ``secret`` is the sender's first one, of a cipher with AES-128 and SHA-256."""
    records = bytearray()
    for _ in range(count):
        sealer, nonce = AESGCM(_label(secret, b"key", 16)), _label(secret, b"iv", 12)
        message = b"\x18\x00\x00\x01\x01\x16"  # key_update, update_requested; a message of the handshake
        head = b"\x17\x03\x03" + (len(message) + 16).to_bytes(2, "big")
        records += head + sealer.encrypt(nonce, message, head)
        secret = _label(secret, b"traffic upd", 32)
    return bytes(records)


def _label(secret: bytes, label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"
    return HKDFExpand(hashes.SHA256(), size, info).derive(secret)
