"""TLS: peers prove who they are, and each way in which a certificate or a handshake can be wrong ends that connection,
for a reason that is told."""

from __future__ import annotations

import gc
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from fabstird.p2p.net.dial_errors import in_words
from fabstird.p2p.security import certificate as certificates
from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.security.secured import HandshakeFailed, WrongPeer
from fabstird.p2p.security.tls import TURN, Tls, TlsConn
from fabstird.p2p.transport.pipe import Traffic
from fabstird.p2p.transport.tcp import TcpPipe
from fabstird.p2p.wire.addresses import parse
from fabstird.p2p.wire.errors import ConnectionLost, PeerError
from tests.support import certificates as made
from tests.support.certificates import TlsPeer, certificate, der, proof
from tests.support.keys import ECDSA, RSA, SECP256K1, KeyIdentity
from tests.support.turns import read_beside_others
from tests.support.wire import Identity

NOWHERE = parse("/ip4/127.0.0.1/tcp/1")
WHO = Identity()
Hostile = Callable[[], tuple[x509.Certificate, made.Key]]


@asynccontextmanager
async def pipes() -> AsyncIterator[tuple[TcpPipe, trio.SocketStream]]:
    """Our end, which has dialled, and the bare socket of the other one."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    async with ours, theirs:
        yield TcpPipe(ours, NOWHERE, Traffic(), initiator=True), theirs


def node() -> NodeKey:
    return NodeKey(os.urandom(32))


async def both(dialling: Tls, accepting: Tls, *, expected: str | None = None) -> tuple[TlsConn, TlsConn]:
    """A connection between two of ours; its sockets end with the test's process."""
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair()]
    pipe, other = (TcpPipe(end, NOWHERE, Traffic(), initiator=end is ends[0]) for end in ends)
    secured: dict[bool, TlsConn] = {}

    async def one(which: Tls, over: TcpPipe, expected: str | None) -> None:
        secured[over.is_initiator] = await which.secure(over, expected)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, dialling, pipe, expected)
            nursery.start_soon(one, accepting, other, None)
    return secured[True], secured[False]


async def test_both_know_each_other_and_all_bytes_arrive() -> None:
    key, other = node(), node()
    conn, back = await both(Tls(key), Tls(other), expected=other.peer_id)
    assert (conn.peer_id, back.peer_id) == (other.peer_id, key.peer_id)
    assert (conn.protocol, conn.key_type) == ("/tls/1.0.0", "Ed25519")
    data = random.Random(15).randbytes(1_000_003)
    came = bytearray()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.write, data)
            while len(came) < len(data):
                came += await back.read()
    assert came == data
    await conn.finish()
    with trio.fail_after(60), pytest.raises(ConnectionLost, match="closed by the other side"):
        await back.read()
    await conn.close()
    await back.close()


async def test_many_short_records_leave_other_tasks_their_turns() -> None:
    """All that had come was decrypted in one turn."""
    count = 4 * TURN
    conn, back = await both(Tls(node()), Tls(node()))
    for _ in range(count):
        back._engine.feed(conn._engine.encrypted(b"x"))
    await conn.write(b"last")
    came, turns = await read_beside_others(back.read, count + 4)
    assert came == b"x" * count + b"last"
    assert turns >= count // TURN
    await conn.close()
    await back.close()


def held_by_openssl() -> int:
    return sum(isinstance(one, SSL.Connection) for one in gc.get_objects())


async def test_what_openssl_has_for_a_connection_is_freed_with_it() -> None:
    """It waited for the garbage collector, which sees nothing of it: hostile handshakes took 50 MiB."""

    async def meaningless() -> None:
        async with pipes() as (pipe, stream):
            await stream.send_all(bytes(100))
            with pytest.raises(HandshakeFailed):
                await Tls(node()).secure(pipe)

    async def cut_off() -> None:
        async with pipes() as (pipe, stream):
            await stream.send_eof()
            with pytest.raises(ConnectionLost):
                await Tls(node()).secure(pipe)

    async def whole() -> None:
        conn, back = await both(Tls(node()), Tls(node()))
        await conn.finish()
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await back.read()
        await conn.close()
        await back.close()

    gc.collect()
    gc.disable()
    try:
        before = held_by_openssl()
        with trio.fail_after(60):
            for attempt in (meaningless, cut_off, whole):
                await attempt()
                assert held_by_openssl() <= before, attempt.__name__
    finally:
        gc.enable()


async def test_bytes_that_follow_the_handshake_at_once_are_not_lost() -> None:
    """The last message of a handshake and the first of what it secures come in one segment."""
    async with pipes() as (pipe, stream):
        shown, key = certificate(WHO)

        async def peer() -> None:
            server = await TlsPeer([shown], key).shake(
                lambda: stream.receive_some(65536), stream.send_all, initiator=False
            )
            server.sendall(b"a")
            server.sendall(b"b" * 40_000)
            await stream.send_all(server.bio_read(1 << 20))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer)
                conn = await Tls(node()).secure(pipe, WHO.peer_id)
                came = b""
                while len(came) < 40_001:
                    came += await conn.read()
    assert came == b"a" + b"b" * 40_000


async def told(shown: list[x509.Certificate], key: made.Key | None, *, dialled: bool, **peer: object) -> Exception:
    """What our side says to a peer that shows these certificates, having dialled it or been dialled by it."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    stranger = TlsPeer(shown, key, **peer)  # type: ignore[arg-type]
    alerts: list[SSL.Error] = []

    async def other() -> None:
        async def receive() -> bytes:
            data = await theirs.receive_some(65536)
            if not data:
                raise trio.BrokenResourceError
            return bytes(data)

        try:
            connection = await stranger.shake(receive, theirs.send_all, initiator=not dialled)
            while True:  # a client has its answer after its own handshake
                connection.bio_write(await receive())
                try:
                    connection.recv(65536)
                except SSL.WantReadError:
                    pass
        except SSL.Error as error:
            alerts.append(error)
        except trio.BrokenResourceError:
            pass
        await theirs.aclose()

    failure: Exception | None = None
    async with ours:
        pipe = TcpPipe(ours, NOWHERE, Traffic(), initiator=dialled)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other)
                try:
                    await Tls(node()).secure(pipe, WHO.peer_id if dialled else None)
                except (HandshakeFailed, ConnectionLost) as error:
                    failure = error
                await ours.aclose()
    assert failure is not None, "it was taken"
    return failure


WRONG: dict[str, tuple[Hostile, str]] = {
    "expired": (lambda: certificate(WHO, ends=timedelta(minutes=-1)), "has expired"),
    "not yet": (lambda: certificate(WHO, begins=timedelta(hours=2)), "is not valid yet"),
    "no extension": (lambda: certificate(WHO, left_out=True), "lacks libp2p's extension"),
    "garbage in it": (lambda: certificate(WHO, extension=b"\x30\x03\x04\x01"), "extension of its certificate cannot"),
    "more in it": (lambda: certificate(WHO, extension=lambda key: proof(WHO, key) + b"\0"), "extension of its cert"),
    "a long length": (
        lambda: certificate(WHO, extension=lambda key: b"\x30\x81\x04\x04\x00\x04\x00"),
        "extension of its certificate cannot be read",
    ),
    "no key in it": (
        lambda: certificate(WHO, extension=der(0x30, der(4, b"") + der(4, bytes(64)))),
        "its key is not taken: it is no key in libp2p's encoding",
    ),
    "a huge key in it": (
        lambda: certificate(WHO, extension=der(0x30, der(4, b"\x08\x00\x12" + bytes(3000)) + der(4, bytes(64)))),
        "its key is not taken: a key of 3003 bytes",
    ),
    "signed for another use": (
        lambda: certificate(WHO, extension=lambda key: proof(WHO, key, prefix=b"noise-libp2p-static-key:")),
        "its key has not signed its certificate",
    ),
    "another's proof": (
        lambda: certificate(WHO, extension=proof(WHO, ec.generate_private_key(ec.SECP256R1()))),
        "its key has not signed its certificate",
    ),
    "critical and unknown": (lambda: certificate(WHO, after=[(made.OTHER, True)]), "a critical extension"),
    "signed by another key": (
        lambda: certificate(WHO, signer=ec.generate_private_key(ec.SECP256R1())),
        "not signed by its own key",
    ),
    "a curve of others": (
        lambda: certificate(WHO, ec.generate_private_key(ec.SECP256K1())),
        "a key that is not taken|no suitable signature|unknown|wrong curve|internal error",
    ),
    "sha-224": (lambda: certificate(WHO, hashed=hashes.SHA224()), "an algorithm that is not taken"),
    "a short RSA key": (lambda: certificate(WHO, made.rsa_key(1024)), "RSA key that is not taken, of 1024 bits|small"),
    "too long": (
        lambda: certificate(WHO, after=[(x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 140), False)]),
        "a certificate of [0-9]+ bytes; 8192 are taken at most",
    ),
    "twice as long": (
        lambda: certificate(WHO, after=[(x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 300), False)]),
        "handshake has more than 16384 bytes",
    ),
}
UNSHOWABLE = {"a curve of others", "a short RSA key"}  # the peer of these tests cannot even offer it in TLS 1.3


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "dialling"])
@pytest.mark.parametrize("kind", [name for name in WRONG if name not in UNSHOWABLE])
async def test_a_certificate_that_is_wrong_ends_the_handshake_with_its_reason(kind: str, dialled: bool) -> None:
    make, words = WRONG[kind]
    shown, key = make()
    error = await told([shown], key, dialled=dialled)
    assert isinstance(error, HandshakeFailed)
    with pytest.raises(HandshakeFailed, match=words):
        raise error
    assert in_words(error) == f"the handshake failed: {error}"


@pytest.mark.parametrize("kind", [name for name in WRONG if name != "twice as long"])
def test_the_same_without_a_connection(kind: str) -> None:
    make, words = WRONG[kind]
    with pytest.raises(certificates.BadCertificate, match=words):
        certificates.verify(make()[0].public_bytes(Encoding.DER))


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "dialling"])
async def test_a_second_certificate_is_one_too_many(dialled: bool) -> None:
    shown, key = certificate(WHO)
    error = await told([shown, certificate(Identity())[0]], key, dialled=dialled)
    assert "more than one certificate" in str(error)


async def test_a_client_without_a_certificate_is_nobody() -> None:
    error = await told([], None, dialled=False)
    assert "peer did not return a certificate" in str(error)


async def test_another_protocol_inside_tls_is_refused() -> None:
    shown, key = certificate(WHO)
    assert 'does not speak "libp2p"' in str(await told([shown], key, dialled=False, alpn=(b"h2",)))
    # one that we have not named: OpenSSL sees that
    assert "bad extension" in str(await told([shown], key, dialled=True, alpn=(b"h2",)))


async def test_nothing_below_1_3_is_spoken() -> None:
    shown, key = certificate(WHO)
    for dialled in (True, False):
        error = await told([shown], key, dialled=dialled, version=SSL.TLS1_2_VERSION)
        assert isinstance(error, HandshakeFailed)
        assert "protocol" in str(error)


async def test_whoever_answers_must_be_the_peer_that_was_dialled() -> None:
    shown, key = certificate(Identity())
    error = await told([shown], key, dialled=True)
    assert isinstance(error, WrongPeer)
    assert in_words(error) == "another peer answers there: its peer id is not the one that was dialled"


GOOD: dict[str, Hostile] = {
    "ours": lambda: certificate(WHO),
    "critical": lambda: certificate(WHO, critical=True),
    "after others": lambda: certificate(WHO, before=[(made.CONSTRAINTS, True), (made.OTHER, False)]),
    "before others": lambda: certificate(WHO, after=[(made.OTHER, False), (made.CONSTRAINTS, True)]),
    "RSA": lambda: certificate(WHO, made.rsa_key()),
    "P-384": lambda: certificate(WHO, ec.generate_private_key(ec.SECP384R1()), hashed=hashes.SHA384()),
    "P-521": lambda: certificate(WHO, ec.generate_private_key(ec.SECP521R1()), hashed=hashes.SHA512()),
    "Ed25519": lambda: certificate(WHO, ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "dialling"])
@pytest.mark.parametrize("kind", GOOD)
async def test_a_certificate_that_is_right_is_taken(kind: str, dialled: bool) -> None:
    shown, key = GOOD[kind]()
    await is_taken(TlsPeer([shown], key), dialled)


@pytest.mark.parametrize("dialled", [True, False], ids=["dialled", "dialling"])
async def test_who_names_no_protocol_inside_tls_is_taken_as_js_1_x_is(dialled: bool) -> None:
    shown, key = certificate(WHO)
    await is_taken(TlsPeer([shown], key, alpn=()), dialled)


async def is_taken(stranger: TlsPeer, dialled: bool) -> None:
    """Shown as WHO, having been dialled or dialling."""
    ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
    async with ours, theirs:
        pipe = TcpPipe(ours, NOWHERE, Traffic(), initiator=dialled)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    lambda: stranger.shake(lambda: theirs.receive_some(65536), theirs.send_all, initiator=not dialled)
                )
                conn = await Tls(node()).secure(pipe, WHO.peer_id if dialled else None)
    assert (conn.peer_id, conn.key_type) == (WHO.peer_id, "Ed25519")


@pytest.mark.parametrize(
    ("identity", "kind"),
    [(KeyIdentity(RSA, bits=2048), "RSA"), (KeyIdentity(SECP256K1), "Secp256k1"), (KeyIdentity(ECDSA), "ECDSA")],
    ids=["rsa", "secp256k1", "ecdsa"],
)
def test_nodes_with_keys_of_other_kinds(identity: Identity, kind: str) -> None:
    shown, _ = certificate(identity)
    key = certificates.verify(shown.public_bytes(Encoding.DER))
    assert (key.kind, key.peer_id) == (kind, identity.peer_id)


def test_the_largest_certificate_that_may_come_fits() -> None:
    """Two RSA keys and a signature of each, all of 8,192 bits in place of 2,048."""
    shown, _ = certificate(KeyIdentity(RSA, bits=2048), made.rsa_key(), after=[(made.CONSTRAINTS, True)])
    encoded = shown.public_bytes(Encoding.DER)
    assert certificates.verify(encoded).kind == "RSA"
    assert len(encoded) + 4 * (8192 - 2048) // 8 < certificates.MAX_CERTIFICATE


def test_keys_of_other_systems_are_not_taken() -> None:
    shown, _ = certificate(WHO, dsa.generate_private_key(1024))
    with pytest.raises(certificates.BadCertificate, match="a key that is not taken"):
        certificates.verify(shown.public_bytes(Encoding.DER))


def test_an_exponent_that_nobody_uses_is_not_taken() -> None:
    """A signature by such a key takes seconds to check, and what is checked first is the certificate's own."""
    numbers = made.rsa_key().private_numbers()
    phi = (numbers.p - 1) * (numbers.q - 1)
    exponent = 2**33 + 1
    while True:
        try:
            secret = pow(exponent, -1, phi)
            break
        except ValueError:
            exponent += 2
    odd = rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        secret,
        rsa.rsa_crt_dmp1(secret, numbers.p),
        rsa.rsa_crt_dmq1(secret, numbers.q),
        rsa.rsa_crt_iqmp(numbers.p, numbers.q),
        rsa.RSAPublicNumbers(exponent, numbers.public_numbers.n),
    ).private_key()
    shown, _ = certificate(WHO, odd)
    with pytest.raises(certificates.BadCertificate, match="an RSA key that is not taken"):
        certificates.verify(shown.public_bytes(Encoding.DER))


def test_every_changed_byte_of_a_certificate_is_seen() -> None:
    """What libraries make of such bytes is a `BadCertificate`, too, and nothing else."""
    whole = certificate(WHO)[0].public_bytes(Encoding.DER)
    chance = random.Random(1531)
    for _ in range(300):
        at = chance.randrange(len(whole))
        changed = whole[:at] + bytes((whole[at] ^ 1 << chance.randrange(8),)) + whole[at + 1 :]
        with pytest.raises(certificates.BadCertificate):
            certificates.verify(changed)
    for at in range(0, len(whole), 7):
        with pytest.raises(certificates.BadCertificate):
            certificates.verify(whole[:at])


@pytest.mark.parametrize("unused", [1, 2, 3])
def test_no_bits_of_a_signature_are_left_out(unused: int) -> None:
    """By a byte that nothing signs; where the bits are 0, so that the library takes it."""
    while (shown := certificate(WHO)[0]).signature[-1] & 7:
        pass
    whole = shown.public_bytes(Encoding.DER)
    at = len(whole) - len(shown.signature) - 1
    assert whole[at] == 0
    with pytest.raises(certificates.BadCertificate, match="whole bytes"):
        certificates.verify(whole[:at] + bytes((unused,)) + whole[at + 1 :])


async def test_random_bytes_end_a_handshake_and_nothing_else() -> None:
    chance = random.Random(1532)
    ours = Tls(node())
    for dialled in (True, False):
        for size in (1, 5, 300, 20_000):
            async with pipes() as (pipe, stream):
                pipe.is_initiator = dialled

                async def send(to: trio.SocketStream, data: bytes) -> None:
                    await to.send_all(data)
                    await to.send_eof()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, stream, b"\x16\x03\x01" * (size > 5) + chance.randbytes(size))
                    with trio.fail_after(60), pytest.raises((HandshakeFailed, ConnectionLost)):
                        await ours.secure(pipe)


async def test_a_forged_record_ends_the_connection() -> None:
    conn, back = await both(Tls(node()), Tls(node()))
    await conn.write(b"what came before is read")
    await conn._pipe.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with trio.fail_after(60):
        assert await back.read() == b"what came before is read"
        for _ in range(2):
            with pytest.raises(PeerError, match=r"bad record mac|decrypt"):
                await back.read()
    await conn.close()
    await back.close()


async def test_whoever_asks_for_new_keys_again_and_again_gets_no_memory_for_the_answers() -> None:
    """Each of them costs an answer, which waits until we write; and the loop is not held up for long by any of them."""
    shown, key = certificate(WHO)
    stranger = TlsPeer([shown], key)
    async with pipes() as (pipe, stream):
        pipe.is_initiator = False  # a server would use its first keys for tickets, too
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    await stranger.shake(lambda: stream.receive_some(65536), stream.send_all, initiator=True)
                    records = made.new_keys_again_and_again(stranger.secrets[b"CLIENT_TRAFFIC_SECRET_0"], 20_000)
                    try:
                        await stream.send_all(records)
                    except trio.BrokenResourceError:
                        pass  # we have had enough

                nursery.start_soon(flood)
                conn = await Tls(node()).secure(pipe)
                with pytest.raises(PeerError, match="new keys again and again"):
                    await conn.read()
                await conn.close()


def test_it_is_loaded_with_the_first_connection_that_speaks_it() -> None:
    program = (
        "import sys, fabstird.p2p.run\n"
        "from fabstird.p2p.security.handshakes import Handshakes\n"
        "from fabstird.p2p.security.keys import NodeKey\n"
        "Handshakes(NodeKey(bytes(32)), ('noise', 'tls'))\n"
        "print(*[one for one in sys.modules if one.startswith('fabstird.p2p.security')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = ran.stdout.split()
    assert "fabstird.p2p.security.noise" in loaded
    assert not {"fabstird.p2p.security.tls", "fabstird.p2p.security.certificate"} & set(loaded)
