"""Many daemons and one Prometheus that finds them by itself, as docs/scale.md has it. `make fleet` runs twenty."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from tests.harness import asked_until, daemon, ipc
from tests.observe.scene import expressions, prometheus

FLEET = int(os.environ.get("FABSTIR_FLEET", "3"))
FOUND = 120.0  # seconds for all to be scraped


async def test_a_fleet_is_found_and_scraped_with_one_read_token(prometheus_there: None, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(daemon({"node.enable_mdns": False}))
        async with ipc(first) as connection:
            made = await connection.call("token.create", {"name": "prometheus", "access": "read"})
        token, targets = tmp_path / "fabstird.token", tmp_path / "fleet.json"
        token.write_text(made["token"])

        def tell(ports: list[int]) -> None:
            found = [{"targets": [f"127.0.0.1:{port}"], "labels": {"role": "worker"}} for port in ports]
            targets.with_suffix(".new").write_text(json.dumps(found))
            targets.with_suffix(".new").rename(targets)

        tell([first.port])
        found_by = {
            "authorization": {"credentials_file": str(token)},
            "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
        }
        server = await stack.enter_async_context(prometheus(first, tmp_path, found_by=found_by))

        async def scraped(count: int) -> None:
            query = 'sum(fabstird_node_started{role="worker"})'
            await asked_until(lambda: server.values(query), lambda found: found == [count], within=FOUND, every=0.2)

        await scraped(1)
        ports = [first.port]
        for number in range(1, FLEET):
            data_dir = tmp_path / f"d{number}"
            data_dir.mkdir(mode=0o700)
            shutil.copy(first.data_dir / "tokens.json", data_dir)
            other = await stack.enter_async_context(daemon({"node.enable_mdns": False}, data_dir=data_dir))
            ports.append(other.port)
        tell(ports)
        await scraped(FLEET)
        await asked_until(  # a scrape may have come too late
            lambda: server.values('up{job="fabstird"}'), lambda found: found == [1.0] * FLEET, within=FOUND, every=0.2
        )
        series = await server.get("series", **{"match[]": "fabstird_peers"})
        assert {one["instance"] for one in series} == {f"127.0.0.1:{port}" for port in ports}
        panel = next(text for name, text in expressions().items() if "fabstird_peers" in text)
        await asked_until(lambda: server.values(panel), bool, within=FOUND, every=0.2)  # the board, by instance
        tell(ports[:1])
        await scraped(1)
