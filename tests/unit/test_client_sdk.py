"""``FabstirSDK``, asynchronous and blocking, over a scripted daemon."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from fabstir_client import FabstirSDK, sync
from fabstir_client.api.errors import InvalidConfig
from tests.harness import wait_until
from tests.unit.backends import both, waiting_in_vain
from tests.unit.scripted_daemon import OWN, PEER, ScriptedDaemon, connect_peer
from tests.unit.told import NAMES, Seen, eventually, fail_bootstrap, following, has, listen

SDK_NAMES = ("error", "connected", "disconnected", *(n if n.startswith("p2p:") else f"p2p:{n}" for n in NAMES))


@both
async def test_the_sdk_in_production(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    sdk = FabstirSDK("production", {"bootstrapNodes": []})
    listen(sdk, seen, SDK_NAMES)
    assert (sdk.is_p2p_enabled(), sdk.is_p2p_connected(), sdk.get_p2p_status()) == (True, False, "disabled")
    assert await sdk.get_p2p_metrics() is None
    await sdk.connect()
    assert seen == [("p2p:started", {"peerId": OWN, "listenAddresses": []}), ("connected", {})]
    assert (sdk.is_connected, sdk.is_p2p_connected(), sdk.get_p2p_status()) == (True, True, "connected")
    connect_peer(daemon)
    assert await has(seen, "p2p:peer:connect") == PEER
    data = fail_bootstrap(daemon)
    assert await has(seen, "error") == {"type": "P2P_ERROR", "error": data}
    assert ("p2p:error", data) in seen
    seen.clear()
    await sdk.disconnect()
    assert seen == [("p2p:peer:disconnect", PEER), ("p2p:stopped", {"peerId": OWN}), ("disconnected", {})]
    assert (sdk.is_connected, sdk.is_p2p_connected(), sdk.get_p2p_status()) == (False, False, "disconnected")
    assert following() == []


@both
async def test_the_sdk_tells_of_a_start_also_where_the_node_ran_before(daemon: ScriptedDaemon) -> None:
    daemon.state = "started"
    seen: Seen = []
    sdk = FabstirSDK("production", {})
    listen(sdk, seen, SDK_NAMES)
    await sdk.connect()
    await sdk.connect()
    assert [name for name, _ in seen] == ["p2p:started", "connected", "connected"]
    await sdk.disconnect()


@both
async def test_the_sdk_does_not_fail_over_p2p(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    sdk = FabstirSDK("production", {}, api="ipc:/nonexistent")
    listen(sdk, seen, SDK_NAMES)
    await sdk.connect()
    assert (sdk.is_connected, sdk.is_p2p_connected(), sdk.get_p2p_status()) == (True, False, "disconnected")
    assert [name for name, _ in seen] == ["error", "connected"]
    error = seen[0][1]
    assert (error["type"], error["error"]["type"]) == ("P2P_ERROR", "DAEMON_UNREACHABLE")
    assert "fabstird run" in error["error"]["message"]
    await sdk.disconnect()


@both
async def test_the_sdk_tells_when_the_daemon_is_lost(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    sdk = FabstirSDK("production", {})
    listen(sdk, seen, SDK_NAMES)
    await sdk.connect()
    daemon.stop()
    assert (await has(seen, "error"))["error"]["type"] == "CONNECTION_LOST"
    assert sdk.get_p2p_status() == "disconnected"
    seen.clear()
    await sdk.disconnect()
    assert ("disconnected", {}) in seen
    assert ("p2p:stopped", {"peerId": OWN}) not in seen


@both
async def test_the_sdk_may_be_disconnected_by_a_handler(daemon: ScriptedDaemon) -> None:
    sdk = FabstirSDK("production", {})
    done = anyio.Event()

    async def enough(_: Any) -> None:
        with waiting_in_vain():
            await sdk.disconnect()
        done.set()

    sdk.on("p2p:peer:connect", enough)
    await sdk.connect()
    connect_peer(daemon)
    await done.wait()
    await eventually(lambda: not following())


@both
async def test_the_sdk_without_p2p(daemon: ScriptedDaemon) -> None:
    sdk = FabstirSDK(mode="mock", p2p_config={"bootstrapNodes": []})
    seen: Seen = []
    listen(sdk, seen, SDK_NAMES)
    await sdk.connect()
    assert (sdk.is_p2p_enabled(), sdk.is_p2p_connected(), sdk.get_p2p_status()) == (False, False, "disabled")
    assert await sdk.get_p2p_metrics() is None
    await sdk.disconnect()
    assert [name for name, _ in seen] == ["connected", "disconnected"]
    assert daemon.calls == []


@pytest.mark.parametrize("kind", [FabstirSDK, sync.FabstirSDK])
def test_a_mode_that_is_none_and_a_production_without_configuration(kind: Any) -> None:
    with pytest.raises(InvalidConfig, match="invalid mode 'prod'"):
        kind("prod", {})
    with pytest.raises(InvalidConfig, match="mode production needs p2p_config"):
        kind("production")


def test_the_blocking_sdk(daemon: ScriptedDaemon) -> None:
    seen: Seen = []
    with sync.FabstirSDK("production", {"bootstrap_nodes": []}) as sdk:
        listen(sdk, seen, SDK_NAMES)
        assert sdk.get_p2p_status() == "connected"
        data = fail_bootstrap(daemon)
        wait_until(lambda: ("error", {"type": "P2P_ERROR", "error": data}) in seen)
    assert sdk.get_p2p_status() == "disconnected"
    assert ("p2p:stopped", {"peerId": OWN}) in seen


def test_the_blocking_sdk_does_not_fail_over_p2p() -> None:
    seen: Seen = []
    sdk = sync.FabstirSDK("production", {}, api="ipc:/nonexistent")
    listen(sdk, seen, SDK_NAMES)
    sdk.connect()
    assert [name for name, _ in seen] == ["error", "connected"]
    assert sdk.is_connected
