"""A daemon at home has its port mapped by a real router: Debian's miniupnpd."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import leave_out
from tests.faults.cable import Machine
from tests.harness import Daemon, fabstird
from tests.harness.launch import environment
from tests.harness.waiting import asked_until
from tests.network.igd import OUTSIDE, ROUTER, home, is_there, mapped, miniupnpd, nft

pytestmark = pytest.mark.usefixtures("igd")

LISTEN = ["/ip4/0.0.0.0/tcp/4001"]
SOON = 60.0  # seconds, on a machine that is busy with other things


@pytest.fixture(scope="session")
def igd(pytestconfig: pytest.Config, nat: None) -> None:
    """Whoever uses it may have a router that maps ports."""
    if not is_there():
        leave_out(pytestconfig, "root", "there is no `miniupnpd` here (package miniupnpd-nftables)")


@pytest.fixture
def network() -> Iterator[tuple[list[Machine], Machine, Machine]]:
    with home() as machines:
        yield machines


async def mapping(daemon: Daemon, state: str) -> Any:
    """How port mapping stands, once it is in this state."""

    async def told() -> Any:
        return (await daemon.call("addresses"))["portMapping"]

    return await asked_until(told, lambda found: found["state"] == state, within=SOON)


async def stopped(daemon: Daemon, router: Machine) -> None:
    """A stop that leaves nothing at the router. It takes no longer than `GOODBYE`, whatever the router does: on a
    machine that is busy with other things it may be too late, and not five times."""
    count = len(daemon.found("nat:mapped"))
    for _ in range(5):
        await daemon.call("stop")
        if not mapped(router):
            return
        seen = len(daemon.events)
        await daemon.call("start")
        await daemon.wait_event("nat:mapped", after=seen, count=count, timeout=SOON)
    assert mapped(router) == []


async def doctor(daemon: Daemon) -> list[dict[str, Any]]:
    """What it finds of port mapping."""
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", "doctor", "--json"]
    done = await trio.run_process(command, capture_stdout=True, check=False, env=environment())
    return [one for one in json.loads(done.stdout)["findings"] if one["check"] == "mapping"]


async def test_a_peer_outside_dials_the_mapped_address(network: tuple[list[Machine], Machine, Machine]) -> None:
    """Once two have dialled it back it is reachable."""
    internet, router, inside = network
    with miniupnpd(router, natpmp=True):
        async with AsyncExitStack() as stack:
            begin = partial(fabstird, listen_addresses=LISTEN)
            daemon = await stack.enter_async_context(begin(prefix=inside.run))
            address = f"/ip4/{OUTSIDE}/tcp/4001/p2p/{daemon.peer_id}"
            told = await daemon.wait_event("nat:mapped", timeout=SOON)
            assert {**told, "expires": 0} == {"address": address, "protocol": "tcp", "method": "pcp", "expires": 0}
            assert [line.rpartition(" dnat ")[2] for line in mapped(router)] == ["ip to 10.0.1.2:4001"]

            addresses = await daemon.call("addresses")
            assert address in addresses["announced"]
            [entry] = [one for one in addresses["reachability"] if one["address"] == address]
            assert (entry["from"], entry["reachable"], entry["confirmedBy"]) == (["mapped"], "unknown", 0)
            assert addresses["portMapping"] == {"state": "mapped", "gateway": ROUTER, "method": "pcp"}
            words = f"the router at {ROUTER} forwards /ip4/{OUTSIDE}/tcp/4001 to this node, by pcp"
            assert await doctor(daemon) == [{"check": "mapping", "state": "ok", "text": words, "cure": None}]

            for machine in internet:
                peer = await stack.enter_async_context(begin(prefix=machine.run))
                assert (await peer.call("connect", address=address))["address"] == address
                await peer.wait_event("peer:identify", peerId=daemon.peer_id, timeout=SOON)
                assert address in (await peer.peer(daemon.peer_id) or {})["addresses"]

            async def state() -> Any:
                known = (await daemon.call("addresses"))["reachability"]
                return next(one for one in known if one["address"] == address)

            found = await asked_until(state, lambda one: one["confirmedBy"] == 2, within=SOON)
            assert (found["reachable"], "mapped" in found["from"]) == ("reachable", True)

            await stopped(daemon, router)
            assert (await daemon.whole_log())[-1]["type"] == "p2p:stopped"
            told_of, gone = daemon.found("nat:mapped"), daemon.found("nat:unmapped")
            assert [one["data"]["address"] for one in gone] == [address] * len(told_of)
            assert daemon.warnings() == []


@pytest.mark.parametrize("way", ["natpmp", "upnp"])
async def test_a_peer_outside_dials_the_mapped_address_over_quic(
    network: tuple[list[Machine], Machine, Machine], way: str
) -> None:
    """Of the same number as TCP's."""
    (outside, _), router, inside = network
    with miniupnpd(router, **{way: True}):
        listen = [*LISTEN, "/ip4/0.0.0.0/udp/4001/quic-v1"]
        async with (
            fabstird(prefix=inside.run, listen_addresses=listen) as daemon,
            fabstird(prefix=outside.run, listen_addresses=LISTEN) as peer,
        ):
            address = f"/ip4/{OUTSIDE}/udp/4001/quic-v1/p2p/{daemon.peer_id}"
            told = await daemon.wait_event("nat:mapped", timeout=SOON, protocol="udp")
            assert (told["address"], told["method"]) == (address, {"natpmp": "pcp", "upnp": "upnp"}[way])
            assert [told["protocol"] for told in map(by_data, daemon.found("nat:mapped"))] == ["tcp", "udp"]
            assert len(mapped(router)) == 2
            assert (await peer.call("connect", address=address))["address"] == address
            assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
            assert address in (await daemon.call("addresses"))["announced"]
            await stopped(daemon, router)
            assert daemon.warnings() == []


def by_data(entry: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = entry["data"]
    return data


class Killed(Exception):
    """Ends a daemon at once: the harness kills it."""


async def test_a_daemon_that_was_killed_renews_its_mapping_when_it_is_back(
    network: tuple[list[Machine], Machine, Machine], tmp_path: Path
) -> None:
    """A PCP server refuses whoever has another nonce."""
    _, router, inside = network
    with miniupnpd(router, natpmp=True):
        with suppress(Killed):
            async with fabstird(tmp_path, prefix=inside.run, listen_addresses=LISTEN) as daemon:
                await daemon.wait_event("nat:mapped", timeout=SOON)
                raise Killed
        for _ in range(5):  # as in `stopped`
            assert len(mapped(router)) == 1, "nobody has given it back"
            async with fabstird(tmp_path, prefix=inside.run, listen_addresses=LISTEN) as daemon:
                told = await daemon.wait_event("nat:mapped", timeout=SOON)
                assert (told["method"], len(mapped(router))) == ("pcp", 1)
            if not mapped(router):
                break
        assert mapped(router) == []


async def test_a_router_that_is_silent_about_pcp_maps_by_nat_pmp(
    network: tuple[list[Machine], Machine, Machine],
) -> None:
    _, router, inside = network
    nft(router, 'insert rule inet filter in iifname "inside" udp dport 5351 @th,64,8 2 drop')  # PCP's version
    with miniupnpd(router, natpmp=True):
        for _ in range(5):  # as in `stopped`
            async with fabstird(prefix=inside.run, listen_addresses=LISTEN) as daemon:
                told = await daemon.wait_event("nat:mapped", timeout=SOON)
                assert told["method"] == "nat-pmp"
                assert len(mapped(router)) == 1
            if not mapped(router):
                break
        assert mapped(router) == [], "SIGTERM gives it back, too"


async def test_a_router_that_knows_upnp_alone(network: tuple[list[Machine], Machine, Machine]) -> None:
    _, router, inside = network
    with miniupnpd(router, upnp=True):
        async with fabstird(prefix=inside.run, listen_addresses=LISTEN) as daemon:
            told = await daemon.wait_event("nat:mapped", timeout=SOON)
            assert (told["method"], told["address"]) == ("upnp", f"/ip4/{OUTSIDE}/tcp/4001/p2p/{daemon.peer_id}")
            assert [line.rpartition(" dnat ")[2] for line in mapped(router)] == ["ip to 10.0.1.2:4001"]
            await stopped(daemon, router)
            assert daemon.warnings() == []


async def test_behind_a_second_router_the_doctor_says_so() -> None:
    """miniupnpd maps nothing there; `test_cli_observe` has a router that does, of no use to anybody."""
    with home("100.64.9.1") as (_, router, inside), miniupnpd(router, natpmp=True):
        async with fabstird(prefix=inside.run, listen_addresses=LISTEN) as daemon:
            told = await mapping(daemon, "refused")
            assert "the router has no public address at present" in told["reason"]
            [found] = await doctor(daemon)
            assert found["state"] == "warning"
            assert "no public address" in found["text"]
            assert "[relay] nodes" in found["cure"]


async def test_a_router_that_does_not_map_is_asked_again_and_the_doctor_says_what_to_do(
    network: tuple[list[Machine], Machine, Machine],
) -> None:
    _, router, inside = network
    async with fabstird(prefix=inside.run, listen_addresses=LISTEN) as daemon:
        told = await mapping(daemon, "refused")
        assert told["gateway"] == ROUTER
        assert told["reason"].startswith("pcp: the router does not speak it; nat-pmp: the router does not speak it")
        [found] = await doctor(daemon)
        assert found["state"] == "warning"
        assert "announce_append" in found["cure"]
        assert daemon.warnings() == []
        with miniupnpd(router, natpmp=True):
            # The network changes, so that it is asked again at once
            inside.ip("address", "add", "10.0.1.7/24", "dev", inside.interface)
            await daemon.wait_event("nat:mapped", timeout=SOON)


async def test_a_daemon_on_loopback_asks_nobody(network: tuple[list[Machine], Machine, Machine]) -> None:
    """Everything that it sends would be counted."""
    _, router, inside = network
    nft(
        inside,
        "table inet count { chain out { type filter hook output priority filter; ip daddr != 127.0.0.1 counter; }; }",
    )
    with miniupnpd(router, natpmp=True):
        async with fabstird(prefix=inside.run) as daemon:
            told = await mapping(daemon, "idle")
            assert told["reason"] == "the node does not listen at 10.0.1.2, where the router could lead to"
            assert daemon.found("nat:mapped") == []
        assert "counter packets 0 bytes 0" in nft(inside, "list table inet count")
