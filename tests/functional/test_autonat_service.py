"""A daemon dials peers back that ask it to (AutoNAT 1 and 2), and is no use for anything else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.harness import Daemon, fabstird
from tests.support import autonat
from tests.support.autonat import Answer, ask_1, ask_2, nonce_of
from tests.support.minipeer import Connection, mini_peer, mini_peers
from tests.support.yamux import Stream

ANYWHERE = ["/ip4/0.0.0.0/tcp/0"]
PATIENCE = 60.0


def here(daemon: Daemon) -> str:
    """Where the daemon is reached on this machine."""
    (address,) = [one for one in daemon.status["listenAddresses"] if one.startswith("/ip4/127.0.0.1/")]
    return str(address)


def bare(address: str) -> str:
    return address.rpartition("/p2p/")[0]


@asynccontextmanager
async def trap(host: str) -> AsyncIterator[tuple[int, list[int]]]:
    """A port at which nobody may knock, and the ports of those who have."""
    came: list[int] = []
    [listener] = await trio.open_tcp_listeners(0, host=host)

    async def note(stream: trio.SocketStream) -> None:
        came.append(stream.socket.getpeername()[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, note, [listener])
        yield listener.socket.getsockname()[1], came
        nursery.cancel_scope.cancel()


async def test_version_1_dials_back_where_the_asker_is_and_nowhere_else() -> None:
    """A port scanner learns nothing: neither of another address, nor how soon a dial has failed."""
    async with fabstird(listen_addresses=ANYWHERE) as daemon, mini_peers(3) as [one, other, scanner]:
        at = await one.listen()
        link = await one.dial(here(daemon))
        assert await ask_1(link, bare(at)) == (autonat.OK, bare(at))
        back = await one.accepted()
        assert back.peer_id != daemon.peer_id, "a stream for the daemon would end up on the dial back"
        await back.closed.wait()
        # with another address before it: its port counts, and its host does not
        elsewhere = bare(at).replace("127.0.0.1", "127.0.0.2")
        assert await ask_1(link, elsewhere) == (autonat.OK, bare(at))

        async with trap("127.0.0.2") as (port, came):
            link = await scanner.dial(here(daemon))
            began = trio.current_time()
            with trio.fail_after(PATIENCE):
                assert await ask_1(link, f"/ip4/127.0.0.2/tcp/{port}") == (autonat.DIAL_ERROR, None)
            assert trio.current_time() - began > 5, "that the port is closed there is not told by the time it takes"
            assert came == []
        link = await other.dial(here(daemon))
        assert await ask_1(link, bare(at), peer_id=one.peer_id) == (autonat.BAD_REQUEST, None)
        assert daemon.errors == []
        assert daemon.found("peer:connect", peerId=daemon.peer_id) == []


async def test_version_1_answers_three_questions_of_a_peer_a_minute_and_ten_of_an_address() -> None:
    async with fabstird(listen_addresses=ANYWHERE) as daemon, mini_peers(5) as peers:
        statuses = []
        for peer in peers:
            at, link = bare(await peer.listen()), await peer.dial(here(daemon))
            statuses.append([(await ask_1(link, at))[0] for _ in range(5)])
        one = [autonat.OK] * 3 + [autonat.DIAL_REFUSED] * 2
        assert statuses == [one, one, one, [autonat.OK] + [autonat.DIAL_REFUSED] * 4, [autonat.DIAL_REFUSED] * 5]


async def test_version_2_brings_the_nonce_to_the_first_address_that_it_may_dial() -> None:
    nonces: list[int] = []

    async def take(stream: Stream) -> None:
        nonces.append(await nonce_of(stream))
        await stream.send_all(b"\0")

    async with fabstird(listen_addresses=ANYWHERE) as daemon, mini_peer() as peer:
        peer.handle(autonat.DIAL_BACK, take)
        at, link = bare(await peer.listen()), await peer.dial(here(daemon))
        async with trap("127.0.0.2") as (port, came):
            unfit = [f"/ip4/127.0.0.2/tcp/{port}", "/ip4/10.255.255.1/tcp/1", "/dns4/localhost/tcp/1"]
            nonce = 2**64 - 5
            with trio.fail_after(PATIENCE):
                assert await ask_2(link, *unfit, at, nonce=nonce) == Answer(
                    autonat.V2_OK, len(unfit), autonat.V2_DIALLED
                )
                assert nonces == [nonce]
                back = await peer.accepted()
                assert back.peer_id != daemon.peer_id
                await back.closed.wait()
                assert await ask_2(link, *unfit) == Answer(autonat.V2_REFUSED, 0, 0)
                # a peer that does not want it: the dial was good, and the nonce was not
                del peer.handlers[autonat.DIAL_BACK]
                assert await ask_2(link, at) == Answer(autonat.V2_OK, 0, autonat.V2_DIAL_BACK_ERROR)
            assert came == []
        assert daemon.errors == []


async def test_version_2_answers_twelve_questions_of_a_peer_a_minute_and_two_at_once() -> None:
    async with fabstird(listen_addresses=ANYWHERE) as daemon, mini_peers(2) as [quick, patient]:
        at, link = bare(await quick.listen()), await quick.dial(here(daemon))
        statuses = [(await answer(link, at)).status for _ in range(14)]
        assert statuses == [autonat.V2_OK] * 12 + [autonat.V2_REJECTED] * 2
        link, said = await patient.dial(here(daemon)), []

        async def one() -> None:
            said.append(await answer(link, "/ip4/127.0.0.1/tcp/1"))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(one)
        assert said.count(Answer(autonat.V2_REJECTED, 0, 0)) == 4
        assert said.count(Answer(autonat.V2_OK, 0, autonat.V2_DIAL_ERROR)) == 2


async def answer(link: Connection, *addresses: str) -> Answer:
    with trio.fail_after(PATIENCE):
        found = await ask_2(link, *addresses)
    assert isinstance(found, Answer)
    return found


async def test_one_address_that_asks_nothing_leaves_others_their_turn() -> None:
    """Many peer ids take places for questions, and let them run out."""
    async with fabstird(listen_addresses=ANYWHERE) as daemon, mini_peers(7) as [honest, *greedy]:
        at, link = bare(await honest.listen()), await honest.dial(here(daemon))
        links = [await peer.dial(here(daemon), source="127.0.0.9") for peer in greedy]
        silent = [await one.open_stream(autonat.DIAL_REQUEST) for one in links for _ in range(2)]
        with trio.fail_after(PATIENCE):  # those that are refused are told so at once: then the others have their places
            async with trio.open_nursery() as nursery:
                said: list[Stream] = []

                async def listen(stream: Stream) -> None:
                    assert (await autonat.next_2(stream)) == Answer(autonat.V2_REJECTED, 0, 0)
                    said.append(stream)
                    if len(said) == len(silent) - 4:
                        nursery.cancel_scope.cancel()

                for stream in silent:
                    nursery.start_soon(listen, stream)
        assert (await answer(link, at)).status == autonat.V2_OK
        assert daemon.errors == []


@pytest.mark.parametrize(
    ("listen", "settings", "offers"),
    [
        (ANYWHERE, {}, True),
        (ANYWHERE, {"nat.autonat_service": False}, False),
        (["/ip4/127.0.0.1/tcp/0"], {}, False),
    ],
    ids=["by default", "switched off", "on loopback alone"],
)
async def test_who_offers_it(listen: list[str], settings: dict[str, bool], offers: bool) -> None:
    async with fabstird(listen_addresses=listen, settings=settings) as daemon, mini_peer() as peer:
        link = await peer.dial(here(daemon))
        told = (await link.identify()).protocols
        assert (autonat.V1 in told, autonat.DIAL_REQUEST in told) == (offers, offers)
