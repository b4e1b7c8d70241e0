"""How large QUIC's datagrams are: as large as the path carries, which is tried."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import pytest

from fabstird.p2p.quic.identity import DATAGRAM
from fabstird.p2p.quic.path_mtu import AGAIN, CLOSE, ETHERNET, HEADERS_V4, HEADERS_V6, TRIES, PathMtu, most
from fabstird.p2p.quic.segments import forbid_fragments
from tests.support.quic_engines import Engines, Side
from tests.unit.test_quic import connection, pair, until

MOST = ETHERNET - HEADERS_V4


def found(carried: int, largest: int = MOST) -> tuple[PathMtu, int]:
    """The search on a path that carries so many bytes, and how many were sent for it."""
    mtu, sent = PathMtu(largest), 0
    while (size := mtu.due(0.0)) is not None:
        sent += 1
        if size <= carried:
            mtu.arrived(size, 0.0)
        else:
            mtu.failed(size, 0.0)
    return mtu, sent


@pytest.mark.parametrize("carried", [1200, 1201, 1232, 1280, 1392, 1464, 1471, 1472, 9000])
def test_the_search_ends_near_what_the_path_carries(carried: int) -> None:
    mtu, sent = found(carried)
    assert DATAGRAM <= mtu.size <= carried
    assert min(carried, MOST) - mtu.size < CLOSE or carried == mtu.size
    assert sent <= 5 * TRIES


def test_an_ethernet_takes_one_datagram_to_find() -> None:
    assert found(MOST)[1] == 1


def test_a_search_that_ended_below_the_most_begins_again_after_a_while() -> None:
    mtu, _ = found(1300)
    assert mtu.due(AGAIN / 2) is None
    assert mtu.due(AGAIN + 1) == MOST
    mtu.arrived(MOST, AGAIN + 1)
    assert mtu.size == MOST
    assert mtu.due(10 * AGAIN) is None


def test_one_is_on_its_way_at_a_time_and_what_was_not_tried_tells_nothing() -> None:
    mtu = PathMtu(MOST)
    assert mtu.due(0.0) == MOST
    assert mtu.due(0.0) is None
    mtu.arrived(1400, 0.0)
    mtu.failed(1300, 0.0)
    assert mtu.size == DATAGRAM
    assert mtu.tried == MOST


def test_a_path_that_swallows_large_ones_gets_small_ones_and_no_few_losses_do_that() -> None:
    mtu, _ = found(MOST)
    for _ in range(10):
        mtu.large_lost(5.0)
        assert mtu.is_doubted
        mtu.large_arrived()
    assert mtu.size == MOST
    for _ in range(TRIES):
        mtu.large_lost(5.0)
    assert mtu.size == DATAGRAM
    assert mtu.due(6.0) is None
    assert mtu.due(5.0 + AGAIN + 1) == MOST


def test_whatever_a_peer_says_it_takes_no_more_is_tried_than_an_ethernet_carries() -> None:
    assert most(("192.0.2.1", 1), 65527) == MOST
    assert most(("2001:db8::1", 1, 0, 0), 65527) == ETHERNET - HEADERS_V6
    assert most(("192.0.2.1", 1), 1300) == 1300
    assert most(("192.0.2.1", 1), 0) == DATAGRAM


def test_whatever_happens_the_size_stays_within_its_bounds() -> None:
    rng = random.Random(3)
    mtu, now = PathMtu(MOST), 0.0
    for _ in range(20_000):
        now += rng.random() * rng.choice((1, AGAIN))
        size = mtu.due(now) or rng.randrange(1000, 1600)
        what: Callable[[], None] = rng.choice(
            (
                lambda size=size, now=now: mtu.arrived(size, now),
                lambda size=size, now=now: mtu.failed(size, now),
                mtu.large_arrived,
                lambda now=now: mtu.large_lost(now),
            )
        )
        what()
        assert DATAGRAM <= mtu.size <= MOST
        assert mtu.tried is None or DATAGRAM < mtu.tried <= MOST


# --------------------------------------------------------------------------------------------------------------------
# Between two engines


def carries(size: int) -> Callable[[Side, int], bool]:
    return lambda sender, sent: sent > size


def carried(engines: Engines, size: int, steps: int = 3000) -> None:
    """So many bytes come to the server on a new stream, whole."""
    one, half = engines.client.engine.open()
    data = random.Random(size).randbytes(size)
    half.sender.write(data, end_stream=True)
    for _ in range(steps):
        engines.step()
        if len(engines.server.came(one)) == size:
            break
    assert engines.server.came(one) == data


def test_datagrams_grow_to_what_an_ethernet_carries() -> None:
    engines = Engines()
    assert max(engines.sizes) == DATAGRAM, "who has little to send tries nothing"
    carried(engines, 150_000)
    assert max(engines.sizes) == MOST
    assert engines.client.engine._max_datagram_size == MOST
    assert engines.server.engine._max_datagram_size == DATAGRAM


@pytest.mark.parametrize("size", [1200, 1252, 1400])
def test_a_narrow_path_is_found_out_and_carries_all(size: int) -> None:
    engines = Engines()
    engine = engines.client.engine
    engines.lost = carries(size)
    lost: list[object] = []
    engine._loss._cc.on_packets_lost = lambda **about: lost.append(about)  # type: ignore[method-assign]
    for _ in range(20):
        carried(engines, 100_000)
        if size - CLOSE <= engine._max_datagram_size:
            break
    assert size - CLOSE <= engine._max_datagram_size <= size
    assert lost == [], "a size that is too large says nothing of how much the path carries in a second"


def test_a_path_that_grows_narrow_is_left_at_once_and_all_arrives() -> None:
    engines = Engines()
    carried(engines, 150_000)
    assert engines.client.engine._max_datagram_size == MOST
    engines.lost = carries(1300)
    carried(engines, 100_000, 20_000)
    assert engines.client.engine._max_datagram_size == DATAGRAM


def test_losses_of_any_size_do_not_make_datagrams_small() -> None:
    engines, rng = Engines(), random.Random(4)
    carried(engines, 100_000)
    engines.lost = lambda sender, size: rng.random() < 0.05
    carried(engines, 200_000, 20_000)
    assert engines.client.engine._max_datagram_size == MOST


def test_a_peer_that_takes_less_gets_less() -> None:
    engines = Engines()
    engines.client.engine._peer_takes = 1300
    carried(engines, 150_000)
    assert max(engines.sizes) == 1300


# --------------------------------------------------------------------------------------------------------------------
# Over sockets


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_no_datagram_is_cut_in_pieces(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        forbid_fragments(sock)
        level, option = (socket.IPPROTO_IP, 10) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 23)
        assert sock.getsockopt(level, option) == 3


async def test_two_hosts_send_large_datagrams() -> None:
    async with pair() as (host, peer, link), host.stream(peer.host.peer_id, "/test/1") as stream:
        await stream.write(bytes(100_000))
        await peer.came.wait()
        left = 100_000
        while left:
            left -= len(await peer.streams[0].receive_some(left))
        await until(lambda: connection(link).engine._max_datagram_size == MOST)
