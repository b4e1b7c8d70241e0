"""Peers that speak every protocol of the node, with real, mutated and meaningless messages, for `FUZZ_SECONDS`.

`make fuzz` does it for ten minutes. `FABSTIR_SEED` repeats what is said; when, the scheduler decides.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio

from tests.faults.answering import answering
from tests.faults.chance import seed
from tests.faults.fuzz import AUTONAT, DCUTR, HOP, KAD, SPOKEN, Sayer
from tests.faults.test_strangers import endpoint
from tests.harness import Daemon, asked_until, fabstird, until
from tests.support.holding import resident
from tests.support.minipeer import IDENTIFY, PING, Connection, ConnectionLost, Identity, MiniPeer, Stream, mini_peers
from tests.support.minipeer import StreamReset as Cut
from tests.support.wire import WireError

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 60)
ATTACKERS = 6
USERS = {"/fuzz/u32be/1": "u32be", "/fuzz/uvarint/1": "uvarint", "/fuzz/none/1": "none"}
GROWTH = 96 * 1024 * 1024  # bytes; all attacks at once, and all that is bounded may be full
LOST = (ConnectionLost, OSError, EOFError, WireError, Cut, trio.BrokenResourceError, trio.ClosedResourceError)


ANNOUNCED = "/ip4/8.8.4.4/tcp/4001"  # an address of ours that peers are asked to try; nobody does
ANSWER = 0.3  # seconds that the daemon has to answer


def hop(number: int, relay: MiniPeer) -> Callable[[Stream], Awaitable[None]]:
    """What a relay answers that the daemon trusts enough to ask."""
    sayer = Sayer(number, relay)

    async def answer(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(sayer.any(HOP))

    return answer


class Attacker:
    """One peer that says what its seed draws, over one connection after another."""

    def __init__(
        self,
        sayer: Sayer,
        source: str,
        peer: MiniPeer,
        daemon: Daemon,
        protocols: Sequence[str | None],
        said: Counter[str],
    ) -> None:
        self._sayer = sayer
        self._peer = peer
        self._address = daemon.address("tcp")
        self._endpoints = [endpoint(daemon, transport) for transport in ("tcp", "ws")]
        self._source = source
        self._protocols = protocols
        self._said = said
        for protocol in (IDENTIFY, PING, KAD, HOP, AUTONAT):
            peer.handle(protocol, self._answer)

    async def run(self) -> None:
        while True:
            try:
                link = await self._peer.dial(self._address, source=self._source)
                for _ in range(self._sayer.chance.randint(1, 40)):
                    await self._attack(link)
                await link.aclose()
            except LOST:
                await trio.sleep(0.05)  # the daemon has had enough of it
            if self._sayer.chance.random() < 0.2:
                self._peer.identity = Identity()

    async def _answer(self, stream: Stream) -> None:
        """To what the daemon asks of its own accord."""
        self._said[f"asked {stream.protocol}"] += 1
        with trio.move_on_after(0.2):
            await stream.receive_some()
        await stream.send_all(self._sayer.any(stream.protocol))

    async def _attack(self, link: Connection) -> None:
        chance = self._sayer.chance
        if (draw := chance.random()) < 0.04:
            self._said["frames"] += 1
            await link.inject(self._sayer.frames())
        elif draw < 0.06:
            self._said["raw"] += 1
            host, port = chance.choice(self._endpoints)
            async with await trio.open_tcp_stream(host, port, local_address=self._source) as stream:
                await stream.send_all(self._sayer.raw())
        elif draw < 0.07:
            link.abort()
            raise ConnectionLost("cut here")
        else:
            await self._say(link, chance.choice(self._protocols))

    async def _say(self, link: Connection, protocol: str | None) -> None:
        self._said[str(protocol)] += 1
        with trio.move_on_after(ANSWER):
            try:
                stream = await link.open_stream(protocol)
                await stream.send_all(self._sayer.any(protocol))
                if (end := self._sayer.chance.random()) < 0.5:
                    await stream.close()
                elif end < 0.7:
                    await stream.reset()
                if end < 0.3:
                    await stream.receive_some()
            except (WireError, Cut, EOFError):
                pass  # its way of saying that it does not understand


async def test_every_protocol_with_real_mutated_and_meaningless_messages() -> None:
    said: Counter[str] = Counter()
    number = seed()
    async with mini_peers(ATTACKERS + 2) as [friend, relay, *attackers]:
        relay.handle(HOP, hop(number, relay))
        settings = {
            "dht.mode": "server",
            "relay.serve": True,
            "relay.nodes": [await relay.listen()],
            "connections.grace_period": 1000,
            "api.bridge": True,
            "streams.perf": True,
        }
        outward = ["/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]  # else no holes are punched
        async with fabstird(
            settings=settings, enable_dht=True, announce_addresses=[ANNOUNCED], listen_addresses=outward
        ) as daemon:
            listening = daemon.status["listenAddresses"]
            daemon.status["listenAddresses"] = [one for one in listening if one.startswith("/ip4/127.0.0.1/")]
            for protocol, framing in USERS.items():
                await daemon.call("protocol.handle", protocol=protocol, framing=framing)
            link = await friend.dial(daemon.address("tcp"), source="127.0.9.1")
            await daemon.wait_event("peer:identify", peerId=friend.peer_id)
            everything = {*SPOKEN, *USERS} - ({DCUTR} if len(listening) == 2 else set())  # a machine without a network
            told = await asked_until(link.identify, lambda told: everything <= set(told.protocols))
            assert set(told.protocols) == everything, "what is announced has messages of its own in `fuzz.py`"
            protocols: list[str | None] = [None, *sorted({*SPOKEN, *USERS})]
            wanted = {str(protocol) for protocol in protocols}
            wanted |= {f"asked {protocol}" for protocol in (IDENTIFY, KAD, AUTONAT)}
            before = resident(daemon)
            async with answering(daemon), trio.open_nursery() as nursery:
                for index, peer in enumerate(attackers, start=1):
                    sayer = Sayer(number + index, peer)
                    nursery.start_soon(Attacker(sayer, f"127.0.8.{index}", peer, daemon, protocols, said).run)
                await trio.sleep(SECONDS)
                await until(lambda: wanted <= said.keys(), within=120)  # on a busy machine the seconds hold few of them
                nursery.cancel_scope.cancel()
            grown = resident(daemon) - before
            print(f"{said.total()} attacks in {SECONDS:.0f} s, {grown >> 20} MiB more; {dict(said)}")
            assert await link.ping() < 20
            assert grown < GROWTH, f"{grown >> 20} MiB"
            assert (await daemon.call("status"))["state"] == "started"
            assert not daemon.errors
