"""The mini peer with itself: what later tests and benches lean on is known good first."""

import os

import pytest
import trio
import trio.testing

from tests.harness import until
from tests.support.counting import held, released
from tests.support.minipeer import (
    ConnectionLost,
    Gone,
    Identity,
    MiniPeer,
    ProtocolRefused,
    Stage,
    Stream,
    StreamReset,
    WireError,
    mini_peer,
    mini_peers,
)


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def wait(stream: Stream) -> None:
    await trio.sleep_forever()


def test_an_identity_has_the_peer_id_that_libp2p_gives_its_key() -> None:
    # The Ed25519 key of the libp2p specification's test vectors (peer-ids), and what py-libp2p makes of it
    identity = Identity(bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"))
    assert identity.public_key.hex() == "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    assert identity.peer_id == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


async def test_dials_identifies_pings_and_moves_more_than_a_window() -> None:
    async with mini_peers(2) as [caller, callee]:
        callee.handle("/echo/1", echo)
        conn = await caller.dial(await callee.listen())
        other = await callee.accepted()
        await other.reached(Stage.UP)
        assert (conn.peer_id, other.peer_id) == (callee.peer_id, caller.peer_id)
        told = await conn.identify()
        assert told.agent == "minipeer/1"
        assert "/echo/1" in told.protocols
        assert await conn.ping() > 0
        assert await conn.muxer_ping() > 0
        sent, received = os.urandom(3_000_000), bytearray()
        stream = await conn.open_stream("/echo/1")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(sent)
                await stream.close()

            nursery.start_soon(send)
            received += await stream.receive_all()
        assert received == sent
        assert other.asked_for == ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/echo/1"]
        with pytest.raises(ProtocolRefused):
            await conn.open_stream("/unheard-of/1")


@pytest.mark.parametrize("stage", list(Stage)[:-1])
@pytest.mark.parametrize("holder", ["dialer", "responder"])
async def test_a_handshake_can_be_held_anywhere_and_goes_on(stage: Stage, holder: str) -> None:
    async with mini_peers(2) as [caller, callee]:
        address = await callee.listen(hold=stage if holder == "responder" else None)
        if holder == "dialer":
            held = await caller.dial(address, hold=stage)
            await trio.testing.wait_all_tasks_blocked()
            assert held.stage is stage
            await held.resume()
            assert await held.ping() > 0
        else:
            async with trio.open_nursery() as nursery:
                up: list[float] = []

                async def dial() -> None:
                    up.append(await (await caller.dial(address)).ping())

                nursery.start_soon(dial)
                held = await callee.accepted()
                await held.reached(stage)
                await trio.testing.wait_all_tasks_blocked()
                assert held.stage is stage
                assert not up
                await held.resume()


async def test_a_mute_responder_shakes_hands_and_answers_nothing() -> None:
    async with mini_peers(2) as [caller, callee]:
        conn = await caller.dial(await callee.listen(mute=True))
        for ask in (conn.ping, conn.muxer_ping, conn.identify):
            with trio.move_on_after(0.1) as patience:
                await ask()
            assert patience.cancelled_caught


async def test_a_frozen_peer_answers_when_it_is_thawed() -> None:
    async with mini_peers(2) as [caller, callee]:
        conn = await caller.dial(await callee.listen())
        other = await callee.accepted()
        await other.reached(Stage.UP)
        other.freeze()
        with trio.move_on_after(0.1) as patience:
            await conn.ping()
        assert patience.cancelled_caught
        other.thaw()
        assert await conn.ping() > 0


@pytest.mark.parametrize("end", ["aclose", "drop", "abort"])
async def test_both_sides_see_the_end(end: str) -> None:
    async with mini_peers(2) as [caller, callee]:
        callee.handle("/wait/1", wait)
        conn = await caller.dial(await callee.listen())
        other = await callee.accepted()
        stream = await conn.open_stream("/wait/1")
        if end == "aclose":
            await other.aclose()
        else:
            getattr(other, end)()
        with trio.fail_after(60):
            await conn.closed.wait()
            with pytest.raises(StreamReset):
                await stream.receive_some()
        assert "reset" in conn.end_reason if end == "abort" else conn.end_reason == "closed by the other side"
        with pytest.raises(ConnectionLost):
            await conn.open_stream("/wait/1")


async def test_whoever_uses_a_connection_as_it_goes_gets_one_error() -> None:
    """Also where nobody has read yet that it has gone: seen as ClosedResourceError, once in some forty runs."""
    async with mini_peers(2) as [caller, callee]:
        callee.handle("/wait/1", wait)
        address = await callee.listen()
        uses = (
            lambda conn, _: conn.open_stream("/wait/1"),
            lambda conn, _: conn.muxer_ping(),
            lambda _, stream: stream.send_all(b"x"),
            lambda _, stream: stream.close(),
            lambda _, stream: stream.grant(1),
            lambda _, stream: stream.receive_some(),
        )
        for use in uses:
            conn = await caller.dial(address)
            stream = await conn.open_stream("/wait/1")
            conn.drop()
            with trio.fail_after(60), pytest.raises((ConnectionLost, StreamReset)):
                await use(conn, stream)
        conn = await caller.dial(await callee.listen(mute=True))

        async def unanswered() -> None:
            with pytest.raises(StreamReset):
                await conn.muxer_ping()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(unanswered)
                await trio.testing.wait_all_tasks_blocked()
                conn.drop()


async def test_what_begins_as_the_other_side_ends_does_not_wait_for_ever() -> None:
    """The reader has seen the end, and the connection is not closed yet: nobody would tell a new stream of it."""
    async with mini_peers(2) as [caller, callee]:
        address = await callee.listen()
        for use in (lambda conn: conn.open_stream("/wait/1"), lambda conn: conn.muxer_ping()):
            conn = await caller.dial(address)
            ended = trio.Event()

            async def linger(_: Stream, ended: trio.Event = ended) -> None:
                try:
                    await trio.sleep_forever()
                finally:  # the connection waits for its handlers
                    ended.set()
                    with trio.CancelScope(shield=True):
                        await trio.testing.wait_all_tasks_blocked()

            caller.handle("/linger/1", linger)
            other = await callee.accepted()
            await other.open_stream("/linger/1")
            other.drop()
            with trio.fail_after(60):
                await ended.wait()
                assert not conn.closed.is_set()
                with pytest.raises(Gone):
                    await use(conn)


async def test_a_connection_through_a_stream_ends_with_it() -> None:
    """Its end is the connection's end, and nothing leaves the peer's nursery."""
    async with mini_peers(2) as [caller, relay]:

        async def be_the_other(stream: Stream) -> None:
            conn = relay.over(stream, "", initiator=False)
            await conn.closed.wait()

        relay.handle("/through/1", be_the_other)
        for end in ("drop", "abort", "aclose", "reset"):
            below = await caller.dial(await relay.listen())
            stream = await below.open_stream("/through/1")
            above = caller.over(stream, relay.peer_id)
            with trio.fail_after(60):
                await above.reached(Stage.UP)
                assert await above.ping() > 0
                if end == "reset":
                    await stream.reset()
                else:
                    await getattr(below, end)() if end == "aclose" else getattr(below, end)()
                await above.closed.wait()
            with pytest.raises(Gone):
                await above.ping()
            assert above.end_reason != "cancelled"


async def test_a_handler_whose_nursery_wraps_the_end_ends_as_any_other() -> None:
    async with mini_peers(2) as [caller, callee]:

        async def wrapped(stream: Stream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive_exactly, 1)

        callee.handle("/wrapped/1", wrapped)
        conn = await caller.dial(await callee.listen())
        for end in ("close", "reset"):
            stream = await conn.open_stream("/wrapped/1")
            await getattr(stream, end)()
        with trio.fail_after(60):
            assert await conn.ping() > 0


async def test_a_handler_that_calls_what_it_heard_wrong_resets_its_stream() -> None:
    async with mini_peers(2) as [caller, callee]:

        async def strict(stream: Stream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(heard, stream)

        async def heard(stream: Stream) -> None:
            raise WireError(f"wrong: {await stream.receive_exactly(1)!r}")

        callee.handle("/strict/1", strict)
        conn = await caller.dial(await callee.listen())
        stream = await conn.send_bytes("/strict/1", b"x")
        with trio.fail_after(60), pytest.raises(StreamReset):
            await stream.receive_some()


async def test_a_liar_is_found_out() -> None:
    async with mini_peers(2) as [caller, callee]:
        address = (await callee.listen()).replace(callee.peer_id, Identity().peer_id)
        with pytest.raises(ConnectionLost, match="expected 12D3KooW"):
            await caller.dial(address)


async def test_a_listener_that_stops_keeps_its_connections() -> None:
    async with mini_peers(2) as [caller, callee]:
        address = await callee.listen()
        conn = await caller.dial(address)
        callee.stop_listening()
        await until(lambda: not callee.addresses)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="failed"):
            await caller.dial(address)
        assert await conn.ping() > 0


async def test_leaving_leaves_nothing_behind() -> None:
    before = await held()

    async def live(peer: MiniPeer, other: MiniPeer) -> None:
        address = await other.listen()
        for hold in (None, Stage.NOISE):
            await peer.dial(address, hold=hold)

    async with mini_peer() as one, mini_peer() as two:
        await live(one, two)
        await live(two, one)
    await released(before)
