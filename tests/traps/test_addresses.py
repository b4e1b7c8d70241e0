"""Traps 10, 11, 12 and 15: what is listened on, what is said of it, and what can be dialled. Of each pair, the first
test shows the defect on stock py-libp2p 0.8.1, the second its absence in our host."""

import socket

import pytest
import trio

from fabstird.p2p.host.host import Host, ListenError
from tests.support.counting import held, released
from tests.support.minipeer import mini_peers
from tests.support.ports import taken_port
from tests.support.wire import MULTISTREAM, lines

from .ours import PATIENCE, address, our_host
from .stock import stock

TCP, WS = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"


def ip6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def localhost_has_ip6() -> bool:
    try:
        return bool(socket.getaddrinfo("localhost", 1, socket.AF_INET6))
    except OSError:
        return False


NEEDS_IP6_LOCALHOST = pytest.mark.skipif(
    not (ip6_works() and localhost_has_ip6()), reason="localhost has no IPv6 address on this machine"
)


def hosts(host: Host) -> list[str]:
    return [each.split("/")[2] for each in host.listen_addresses()]


# ------------------------------------------------------------------------------------------------------------ trap 10


async def test_stock_advertises_wildcards_in_any_order() -> None:
    """Trap 10, libp2p 0.8.1: host/basic_host.py, `BasicHost.get_transport_addrs` takes each listener's socket name as
    it is; network/swarm.py, `Swarm.listen` starts the listeners in concurrent tasks, so their order is chance."""
    verdict = await stock("addresses", "advertised")
    assert "/ip4/0.0.0.0" in verdict["wildcards"]
    assert verdict["orders"] > 1


async def test_ours_advertises_interfaces_in_one_order() -> None:
    """Trap 10: listen_addresses, and what identify tells a peer."""
    wild = ("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0") if ip6_works() else ("/ip4/0.0.0.0/tcp/0",)
    listen = (*(f"/ip4/127.0.0.{number}/tcp/0" for number in (1, 2, 3, 4)), *wild)
    seen = set()
    for _ in range(10):
        async with our_host(listen) as host:
            seen.add(tuple(hosts(host)))
            for each in host.listen_addresses():
                assert each.endswith(f"/p2p/{host.peer_id}")
                assert "/tcp/0/" not in each
    [order] = seen
    assert order[:4] == ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
    assert len(order) > 4
    assert not {"0.0.0.0", "::"} & set(order)

    async with our_host(("/ip4/0.0.0.0/tcp/0",)) as host, mini_peers(1) as [peer]:
        told = await (await peer.dial(address(host))).identify()
        assert told.addresses
        # /ip4 is code 4 and four bytes: what is told is no wildcard either
        assert all(each[:5] != bytes((4, 0, 0, 0, 0)) for each in told.addresses)


async def test_stock_is_silent_about_a_port_it_did_not_get() -> None:
    """Trap 10, libp2p 0.8.1: network/swarm.py, `Swarm.listen` catches the failed bind in `_start_one` and answers
    False, which host/basic_host.py, `BasicHost.run` does not look at."""
    verdict = await stock("addresses", "failed_bind")
    assert (verdict["beside_another"], verdict["alone"]) == (1, 0)


@pytest.mark.parametrize("transport", ["", "/ws"])
async def test_ours_names_the_port_it_did_not_get(transport: str) -> None:
    """Trap 10: an error with the address and the reason; nothing of the other addresses stays bound."""
    with taken_port() as port:
        before, taken = await held(), f"/ip4/127.0.0.1/tcp/{port}{transport}"
        for listen in ((taken,), (TCP, taken), (taken, TCP), (TCP, WS, taken)):
            with pytest.raises(ListenError) as caught:
                async with our_host(listen):
                    raise AssertionError("it opened")
            assert caught.value.address == taken
            assert caught.value.reason == "address already in use"
        await released(before)


async def test_ours_does_not_share_a_port_with_another_of_its_kind() -> None:
    """Trap 10: two hosts on one port, which SO_REUSEPORT would let pass; and an address that is not this machine's."""
    async with our_host() as host:
        with pytest.raises(ListenError, match="already in use"):
            async with our_host((address(host).split("/p2p/")[0],)):
                raise AssertionError("it opened")
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        async with our_host(("/ip4/192.0.2.1/tcp/0",)):
            raise AssertionError("it opened")


# ------------------------------------------------------------------------------------------------------------ trap 11


async def test_stock_puts_tcp_and_ws_on_one_socket() -> None:
    """Trap 11, libp2p 0.8.1: `new_swarm` (libp2p/__init__.py) builds a `PortDemultiplexer` where TCP and ws name one
    port, 0 included; transport/cmux.py, `_classify_and_route` takes what one read returns, up to three bytes, for the
    whole prefix, and closes a connection whose first segment is shorter."""
    verdict = await stock("addresses", "shared_port")
    assert verdict == {"ports": 1, "slow_dialer": "closed"}


async def test_ours_listens_on_a_port_for_each_transport() -> None:
    """Trap 11: two ports; and a TCP dialer that sends its first bytes one by one gets its answer."""
    async with our_host((TCP, WS)) as host:
        tcp, ws = (each.split("/p2p/")[0] for each in host.listen_addresses())
        assert tcp.split("/")[4] != ws.split("/")[4]
        assert (tcp.endswith("/ws"), ws.endswith("/ws")) == (False, True)
        async with await trio.open_tcp_stream("127.0.0.1", int(tcp.split("/")[4])) as stream:
            wanted = lines(MULTISTREAM)
            for byte in wanted:
                await stream.send_all(bytes((byte,)))
                await trio.testing.wait_all_tasks_blocked(0.001)
            answer = b""
            with trio.fail_after(PATIENCE):
                while len(answer) < len(wanted):
                    answer += await stream.receive_some()
        assert answer == wanted


# ------------------------------------------------------------------------------------------------------------ trap 12


async def test_stock_asks_a_name_server_for_what_the_hosts_file_knows() -> None:
    """Trap 12, libp2p 0.8.1: transport/tcp/tcp.py, `TCP.dial` resolves by multiaddr's `DNSResolver`, which asks name
    servers and nothing else."""
    verdict = await stock("addresses", "hosts_file")
    assert verdict["hosts_file"] == "127.0.0.1"
    assert verdict["asked"] == ["localhost. IN A"]
    assert verdict["failed"]
    assert verdict["accepted"] == 0


@pytest.mark.parametrize("protocol", ["dns", "dns4", pytest.param("dns6", marks=NEEDS_IP6_LOCALHOST)])
async def test_ours_reads_the_hosts_file(protocol: str) -> None:
    """Trap 12: the system resolves, for each of the name protocols."""
    async with our_host() as host, mini_peers(1) as [peer]:
        target = await peer.listen("::1" if protocol == "dns6" else "127.0.0.1")
        port = target.split("/")[4]
        link = await host.dial(f"/{protocol}/localhost/tcp/{port}/p2p/{peer.peer_id}", timeout=PATIENCE)
        assert link.peer_id == peer.peer_id


# ------------------------------------------------------------------------------------------------------------ trap 15


async def test_stock_cannot_dial_what_it_does_not_listen_on() -> None:
    """Trap 15, libp2p 0.8.1: `_build_transports_for_swarm` (libp2p/__init__.py) makes a transport for each kind of
    listen address and no other."""
    verdict = await stock("addresses", "missing_transport")
    assert "No supported transport" in verdict["error"]
    assert verdict["with_a_ws_listener"] == 1


@pytest.mark.parametrize("listen", [(), (TCP,), (WS,)])
@pytest.mark.parametrize("target", [TCP, WS])
async def test_ours_dials_every_transport_it_knows(listen: tuple[str, ...], target: str) -> None:
    """Trap 15: whatever the dialer listens on."""
    async with our_host(listen) as host, our_host((target,)) as other:
        link = await host.dial(address(other), timeout=PATIENCE)
        assert link.transport == ("ws" if target == WS else "tcp")
        assert await host.ping(other.peer_id) > 0
