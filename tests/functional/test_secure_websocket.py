"""WebSocket inside TLS, with certificates of an authority; and proxies in front of a node, whose word counts or not."""

from __future__ import annotations

import signal
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import trio

from fabstir_client.api.errors import DialFailed, ListenFailed
from fabstird.p2p.net.inbound import INTRODUCTIONS
from tests.harness import asked_until, fabstird
from tests.harness.daemon import Daemon
from tests.support.authority import Authority

WSS = ["/ip4/127.0.0.1/tcp/0/tls/ws"]
BOTH = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Trusted by daemons that are started from now on."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    return made


def place(daemon: Daemon) -> tuple[str, str]:
    """The port at which it listens, and the end of its address."""
    (address,) = daemon.status["listenAddresses"]
    parts = address.split("/")
    return parts[4], f"/p2p/{daemon.peer_id}"


async def test_a_certificate_is_held_to_the_name_that_was_dialled(authority: Authority) -> None:
    async with (
        fabstird(settings=authority.sign("localhost", "127.0.0.1"), listen_addresses=WSS) as server,
        fabstird() as dialler,
    ):
        port, peer = place(server)
        for address in (
            f"/dns4/localhost/tcp/{port}/tls/ws",
            f"/dns4/localhost/tcp/{port}/wss",
            f"/ip4/127.0.0.1/tcp/{port}/tls/ws",
            f"/ip4/127.0.0.1/tcp/{port}/tls/sni/localhost/ws",
        ):
            await dialler.call("connect", address=address + peer)
            entry = await dialler.peer(server.peer_id)
            assert entry is not None
            (connection,) = entry["connections"]
            assert connection["transport"] == "wss"
            assert connection["address"].startswith(f"/ip4/127.0.0.1/tcp/{port}/tls/")
            assert (await dialler.call("ping", peerId=server.peer_id))["rtt"] > 0
            await dialler.call("disconnect", peerId=server.peer_id)
            # what was learnt of a name can be dialled again without it
            await dialler.call("connect", address=connection["address"])
            await dialler.call("disconnect", peerId=server.peer_id)
        with pytest.raises(DialFailed, match=r"shown for other\.example is not trusted: Hostname mismatch"):
            await dialler.call("connect", address=f"/ip4/127.0.0.1/tcp/{port}/tls/sni/other.example/ws{peer}")


async def test_who_is_signed_by_nobody_that_is_known_is_not_reached(tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("localhost")
    async with fabstird(settings=files, listen_addresses=WSS) as server, fabstird() as dialler:
        port, peer = place(server)
        with pytest.raises(
            DialFailed, match="the certificate that is shown for localhost is not trusted: unable to get"
        ):
            await dialler.call("connect", address=f"/dns4/localhost/tcp/{port}/tls/ws{peer}")


async def test_a_reload_takes_the_certificate_that_is_there_now(authority: Authority) -> None:
    files = authority.sign("localhost", lasts=timedelta(days=-1))
    async with fabstird(settings=files, listen_addresses=WSS) as server, fabstird() as dialler:
        port, peer = place(server)
        address = f"/dns4/localhost/tcp/{port}/tls/ws{peer}"
        with pytest.raises(DialFailed, match="is not trusted: certificate has expired"):
            await dialler.call("connect", address=address)
        authority.sign("localhost")
        server.process.send_signal(signal.SIGHUP)

        async def connected() -> bool:
            try:
                await dialler.call("connect", address=address)
            except DialFailed:
                return False  # it has not been told yet
            return True

        await asked_until(connected, bool)


async def test_without_a_certificate_nothing_listens_and_the_reason_is_told(authority: Authority) -> None:
    async with fabstird(started=False, auto_start=False, listen_addresses=WSS) as daemon:
        with pytest.raises(ListenFailed, match=r"\[tls\] certificate and key are needed"):
            await daemon.call("start")
    files = authority.sign("localhost")
    key = trio.Path(files["tls.key"])
    await key.write_text("no key")
    async with fabstird(settings=files, started=False, auto_start=False, listen_addresses=WSS) as daemon:
        with pytest.raises(ListenFailed, match="do not serve"):
            await daemon.call("start")
    await key.unlink()
    async with fabstird(settings=files, started=False, auto_start=False, listen_addresses=WSS) as daemon:
        with pytest.raises(ListenFailed, match="cannot be read: No such file"):
            await daemon.call("start")


async def test_what_is_no_tls_ends_that_connection_alone(authority: Authority) -> None:
    async with (
        fabstird(settings=authority.sign("localhost"), listen_addresses=WSS) as server,
        fabstird(listen_addresses=["/ip4/127.0.0.1/tcp/0/ws"]) as other,
    ):
        port, peer = place(server)
        with pytest.raises(DialFailed):
            await other.call("connect", address=f"/ip4/127.0.0.1/tcp/{port}/ws{peer}")
        async with await trio.open_tcp_stream("127.0.0.1", int(port)) as stream:
            with suppress(trio.BrokenResourceError):  # the first bytes say enough
                await stream.send_all(b"\x16\x03\x01\xff\xff" + bytes(70_000))
            await ended(stream)
        await asked(server, "handshakesFailed", 2)
        port, peer = place(other)
        with pytest.raises(DialFailed, match=r"TLS failed: |closed the connection during the handshake"):
            await server.call("connect", address=f"/ip4/127.0.0.1/tcp/{port}/tls/ws{peer}")
        await server.call("connect", address=f"/ip4/127.0.0.1/tcp/{port}/ws{peer}")


async def asked(daemon: Daemon, name: str, least: int) -> None:
    await asked_until(lambda: daemon.call("metrics"), lambda answer: answer[name] >= least)


async def ended(stream: trio.SocketStream) -> None:
    with trio.fail_after(60):
        try:
            while await stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass


# --------------------------------------------------------------------------------------------------------------------
# Proxies


def version_2(host: str) -> bytes:
    ends = bytes(int(part) for part in host.split(".")) + b"\x7f\0\0\1" + struct.pack("!HH", 4711, 443)
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", len(ends)) + ends


@asynccontextmanager
async def proxy(port: int, change: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """Leads to ``port``; the first bytes of each connection are changed on the way."""

    async def pump(
        source: trio.SocketStream, sink: trio.SocketStream, first: Callable[[bytes], bytes], cut: Callable[[], None]
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(first(bytes(data)))
                first = bytes
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            cut()  # the other side is to see it, too

    async def serve(stream: trio.SocketStream) -> None:
        async with stream, await trio.open_tcp_stream("127.0.0.1", port) as behind, trio.open_nursery() as nursery:
            cut = nursery.cancel_scope.cancel
            nursery.start_soon(pump, stream, behind, change, cut)
            nursery.start_soon(pump, behind, stream, bytes, cut)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def forwarded(host: str) -> Callable[[bytes], bytes]:
    """As a web server adds it, behind what the caller has written itself."""
    line = f"\r\nX-Forwarded-For: 10.9.9.9, {host}\r\n".encode()
    return lambda data: data.replace(b"\r\n", line, 1)


WAYS: dict[str, tuple[str, Callable[[str], Callable[[bytes], bytes]]]] = {
    "version 1": ("tcp", lambda host: lambda data: f"PROXY TCP4 {host} 127.0.0.1 4711 443\r\n".encode() + data),
    "version 2": ("tcp", lambda host: lambda data: version_2(host) + data),
    "version 2 before ws": ("ws", lambda host: lambda data: version_2(host) + data),
    "X-Forwarded-For": ("ws", forwarded),
}


async def test_behind_a_trusted_proxy_limits_and_bans_count_people() -> None:
    settings = {"proxy.trusted": ["127.0.0.0/8"], "connections.max_per_ip": 1, "connections.max_new_per_ip": 0}
    async with fabstird(settings=settings, listen_addresses=BOTH) as server, fabstird() as one, fabstird() as two:
        for transport, made in WAYS.values():
            port = int(server.address(transport).split("/")[4])
            end = ("/ws" if transport == "ws" else "") + f"/p2p/{server.peer_id}"
            async with proxy(port, made("203.0.113.9")) as first, proxy(port, made("198.51.100.7")) as second:
                await one.call("connect", address=f"/ip4/127.0.0.1/tcp/{first}{end}")
                entry = await asked_until(lambda: server.peer(one.peer_id), bool)
                assert entry is not None
                assert entry["connections"][0]["address"].startswith("/ip4/203.0.113.9/tcp/")
                with pytest.raises(DialFailed):
                    await two.call("connect", address=f"/ip4/127.0.0.1/tcp/{first}{end}")
                await two.call("connect", address=f"/ip4/127.0.0.1/tcp/{second}{end}")
                await server.call("peer.ban", cidr="203.0.113.0/24")
                await one.wait_event("peer:disconnect", peerId=server.peer_id, reason="closed_by_peer")
                with pytest.raises(DialFailed):
                    await one.call("connect", address=f"/ip4/127.0.0.1/tcp/{first}{end}")
                assert await server.peer(two.peer_id) is not None
                await server.call("peer.unban", cidr="203.0.113.0/24")
                await two.call("disconnect", peerId=server.peer_id)
            for daemon in (one, two):
                await until_gone(server, daemon)
                daemon.events.clear()


async def until_gone(server: Daemon, other: Daemon) -> None:
    await asked_until(lambda: server.peer(other.peer_id), lambda entry: entry is None)


async def test_of_others_no_word_counts() -> None:
    settings = {"proxy.trusted": ["192.0.2.0/24"]}
    async with fabstird(settings=settings, listen_addresses=BOTH) as server, fabstird() as other:
        for kind, (transport, made) in WAYS.items():
            port = int(server.address(transport).split("/")[4])
            async with proxy(port, made("203.0.113.9")) as first:
                address = (
                    f"/ip4/127.0.0.1/tcp/{first}" + ("/ws" if transport == "ws" else "") + f"/p2p/{server.peer_id}"
                )
                if kind == "X-Forwarded-For":
                    await other.call("connect", address=address)
                    entry = await asked_until(lambda: server.peer(other.peer_id), bool)
                    assert entry is not None
                    assert entry["connections"][0]["address"].startswith("/ip4/127.0.0.1/tcp/")
                else:
                    with pytest.raises(DialFailed):
                        await other.call("connect", address=address)


async def test_a_proxy_that_says_nothing_true_ends_that_connection_alone() -> None:
    settings = {"proxy.trusted": ["127.0.0.0/8"], "connections.handshake_timeout": 4000}
    async with fabstird(settings=settings, listen_addresses=BOTH) as server, fabstird() as other:
        port = int(server.address("tcp").split("/")[4])
        for nonsense in (
            b"PROXY TCP4 nobody 127.0.0.1 1 2\r\n",
            b"P" * 200,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"",
        ):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                if nonsense:
                    await stream.send_all(nonsense)
                await ended(stream)  # b"": after `handshake_timeout`
        await asked(server, "handshakesFailed", 4)
        await other.call("connect", address=server.address("tcp"))


async def test_proxies_that_say_half_of_it_keep_nobody_out() -> None:
    """256 of them took every place for `handshake_timeout`."""
    settings = {"proxy.trusted": ["127.0.0.0/8"], "connections.handshake_timeout": 120_000}
    async with (
        fabstird(settings=settings, listen_addresses=BOTH) as server,
        fabstird() as other,
        AsyncExitStack() as held,
    ):
        port = int(server.address("tcp").split("/")[4])
        silent = [await held.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(300)]
        for stream in silent:
            with suppress(trio.BrokenResourceError):  # one of those that have been sent away
                await stream.send_all(b"PROXY TCP4 ")
        await asked(server, "handshakesFailed", 300 - INTRODUCTIONS)
        await ended(silent[0])
        async with proxy(port, WAYS["version 1"][1]("203.0.113.9")) as behind:
            await other.call("connect", address=f"/ip4/127.0.0.1/tcp/{behind}/p2p/{server.peer_id}")
