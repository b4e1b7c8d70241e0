"""The Fabstir scheme among real daemons: announced, discovered, filtered, remembered, withdrawn; and its command."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio

from fabstir_client.api.errors import FeatureDisabled, InvalidParams, TooLarge
from tests.functional.test_dht import know, network
from tests.harness import asked_until, environment, fabstird

MODEL = "llama-3-70b"
PRICE = 10**30


def metadata(**fields: Any) -> dict[str, Any]:
    return {"models": [MODEL], "pricePerToken": str(PRICE), "reputation": 80, **fields}


async def test_nodes_are_announced_discovered_filtered_and_put_in_order() -> None:
    async with network() as (a, b, c):
        for one in (a, b, c):
            await know(one, 2)
        announced = await a.call("fabstir.announce", capabilities=[MODEL], metadata=metadata())
        assert [(key["scheme"], key["sent"], key["confirmed"]) for key in announced["keys"]] == [
            ("fabstir", 2, 2),
            ("sdk", 2, 2),
        ]
        assert (announced["peerId"], announced["stored"]) == (a.peer_id, 2)
        await b.call("fabstir.announce", capabilities=[MODEL], metadata=metadata(reputation=90, gpu="x"))
        # One that says something else than it should is skipped; c asks, and finds itself there too
        await c.call("dht.provide", key=f"capability:{MODEL}")
        broken = base64.b64encode(b'{"pricePerToken":-1}').decode()
        await c.call("dht.put_value", key=f"metadata:{c.peer_id}", value=broken)

        found = await c.call("fabstir.discover", model=MODEL)
        assert [node["peerId"] for node in found["nodes"]] == [b.peer_id, a.peer_id]
        assert (found["malformed"], found["filtered"], found["cached"], found["complete"]) == (1, 0, False, True)
        first = found["nodes"][0]
        assert (first["reputation"], first["pricePerToken"], first["byOwner"]) == (90, str(PRICE), True)
        assert first["metadata"]["gpu"] == "x"
        assert b.address("tcp") in first["addresses"]

        again = await c.call("fabstir.discover", model=MODEL, filters={"preferredNodes": [a.peer_id]})
        assert [node["peerId"] for node in again["nodes"]] == [a.peer_id, b.peer_id]
        assert (again["cached"], again["nodes"][0]["preferred"]) == (True, True)
        cheap = await c.call("fabstir.discover", model=MODEL, filters={"maxPrice": str(PRICE - 1)})
        assert (cheap["nodes"], cheap["filtered"]) == ([], 2)
        good = await c.call("fabstir.discover", model=MODEL, filters={"minReputation": 85}, forceRefresh=True)
        assert ([node["peerId"] for node in good["nodes"]], good["cached"]) == ([b.peer_id], False)
        out = await c.call("fabstir.discover", model=MODEL, filters={"excludeNodes": [b.peer_id]})
        assert [node["peerId"] for node in out["nodes"]] == [a.peer_id]

        gone = await a.call("fabstir.withdraw", capabilities=[MODEL])
        assert gone == {"capabilities": [MODEL], "metadata": True}
        assert (await a.call("dht.status"))["kept"] == []


async def test_what_is_announced_outlives_a_restart() -> None:
    async with fabstird(enable_dht=True) as b:
        with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
            known = {"enable_dht": True, "bootstrap_nodes": [b.address("tcp")]}
            async with fabstird(Path(folder), **known) as a:
                alone = await a.call("fabstir.announce", capabilities=[MODEL], metadata=metadata())
                name = a.peer_id
                assert len(alone["keys"]) == 2
                kept = [(one["key"], one["provided"]) for one in (await a.call("dht.status"))["kept"]]
                assert len(kept) == 5  # of the model, of any model, and the metadata
            stored = json.loads((Path(folder) / "dht.json").read_bytes())
            for record in stored["records"]:
                record["announced"] = 0  # twelve hours have passed
            (Path(folder) / "dht.json").write_text(json.dumps(stored))
            async with fabstird(Path(folder), **known) as a, fabstird(**known) as c:
                assert a.peer_id == name
                await asked_until(
                    lambda: a.call("dht.status"), lambda status: all("announced" in one for one in status["kept"])
                )
                assert [(one["key"], one["provided"]) for one in (await a.call("dht.status"))["kept"]] == kept
                await know(c, 1)
                found = await c.call("fabstir.discover", model=MODEL)
                assert [node["peerId"] for node in found["nodes"]] == [name]


async def test_what_cannot_be_announced_says_why() -> None:
    async with fabstird(enable_dht=True) as daemon, fabstird(enable_dht=False) as off:
        for wrong in ({"pricePerToken": "cheap"}, {"models": ["other"]}, {"peerId": off.peer_id}):
            with pytest.raises(InvalidParams, match="metadata"):
                await daemon.call("fabstir.announce", capabilities=[MODEL], metadata=wrong)
        for names in ([], [""], ["x" * 61], ["a\nb"], [str(number) for number in range(65)]):
            with pytest.raises(InvalidParams, match="capabilities"):
                await daemon.call("fabstir.announce", capabilities=names)
        with pytest.raises(TooLarge):
            await daemon.call("fabstir.announce", capabilities=[MODEL], metadata={"x": "y" * 20000})
        for filters in (
            {"maxPrice": "1.5"},
            {"preferredNodes": ["nobody"]},
            {"maxPrices": "1"},
            {"minReputation": "x"},
        ):
            with pytest.raises(InvalidParams, match="filters"):
                await daemon.call("fabstir.discover", model=MODEL, filters=filters)
        nobody = await daemon.call("fabstir.discover", model=MODEL)
        assert (nobody["nodes"], nobody["complete"]) == ([], True)
        for method, params in (("announce", {"capabilities": [MODEL]}), ("discover", {"model": MODEL})):
            with pytest.raises(FeatureDisabled):
                await off.call(f"fabstir.{method}", **params)


async def test_the_command_prints_a_table() -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as folder:
        async with fabstird(Path(folder), enable_dht=True) as daemon:
            await daemon.call("fabstir.announce", capabilities=[MODEL], metadata=metadata())

            async def run(*words: str) -> str:
                command = [sys.executable, "-m", "fabstir_client", "--data-dir", folder, "discover", *words]
                done = await trio.run_process(command, capture_stdout=True, env=environment())
                return done.stdout.decode()

            head, line = (await run(MODEL)).splitlines()
            assert head.split() == ["NODE", "REPUTATION", "LATENCY", "PRICE", "METADATA", "ADDRESS"]
            assert line.split()[:2] == [daemon.peer_id, "80"]
            assert str(PRICE) in line
            text = await run(MODEL, "--min-reputation", "81")
            assert "no node serves" in text
            assert "1 left out by filters" in text
            assert "cached" in text
            told = json.loads(await run(MODEL, "--refresh", "--json"))
            assert (told["cached"], len(told["nodes"])) == (False, 1)


async def test_an_empty_answer_is_not_remembered() -> None:
    """Seen: the first call of an app came before any peer, and was answered from memory for five minutes after."""
    async with fabstird(enable_dht=True) as daemon:
        for _ in range(2):
            nobody = await daemon.call("fabstir.discover", model=MODEL, timeout=1000)
            assert (nobody["nodes"], nobody["cached"]) == ([], False)
        await daemon.call("fabstir.announce", capabilities=[MODEL])
        found = await daemon.call("fabstir.discover", model=MODEL)
        assert ([one["peerId"] for one in found["nodes"]], found["cached"]) == ([daemon.peer_id], False)
        assert (await daemon.call("fabstir.discover", model=MODEL))["cached"]


async def test_the_first_call_of_an_app_waits_for_the_first_peer() -> None:
    """By default for half of its time; what it then finds is the answer. Any model is a model too."""
    async with fabstird(settings={"dht.mode": "server"}, enable_dht=True) as host:
        await host.call("fabstir.announce", capabilities=[MODEL], metadata={"models": [MODEL]})
        async with fabstird(settings={"dht.discover_ttl": 0}, enable_dht=True) as app, trio.open_nursery() as nursery:

            async def connect_later() -> None:
                await trio.sleep(1)
                await app.call("connect", address=host.address("tcp"))

            nursery.start_soon(connect_later)
            for model in (MODEL, "any", MODEL):
                found = await app.call("fabstir.discover", model=model, timeout=55000)
                assert [one["peerId"] for one in found["nodes"]] == [host.peer_id], model
                assert not found["cached"]  # [dht] discover_ttl is 0
        withdrawn = await host.call("fabstir.withdraw", capabilities=[MODEL])
        assert withdrawn == {"capabilities": [MODEL], "metadata": True}
        assert (await host.call("fabstir.discover", model="any", timeout=500))["nodes"] == []
