"""The package's own tests (`clients/typescript/test`), which start real daemons: on the tarball as it is installed,
with every version of Node that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import toolbox
from tests.clients.toolbox import Tools

TIMEOUT = 300.0  # seconds, on a machine that is busy with other things
EVERYWHERE = ("client", "p2p", "streams")
ONCE = ("bad-input", "bridge", "events", "exit", "transcripts")


def test_every_test_file_is_run() -> None:
    files = {path.name.split(".")[0] for path in (toolbox.PACKAGE / "test").glob("*.test.mjs")}
    assert files == {*EVERYWHERE, *ONCE}


@pytest.mark.parametrize(
    ("name", "major"),
    [*((name, major) for name in EVERYWHERE for major in toolbox.NODES), *((name, "22") for name in ONCE)],
)
def test_on_node(tools: Tools, installed: Path, name: str, major: str) -> None:
    command = [tools.node(major), "--test", "--test-reporter=tap", f"test/{name}.test.mjs"]
    transcripts = {"FABSTIR_TEST_TRANSCRIPTS": str(toolbox.ROOT / "tests" / "conformance" / "transcripts")}
    told = toolbox.run(command, installed, {**toolbox.PYTHON, **transcripts}, TIMEOUT)
    assert "\n# fail 0" in told, told[-8000:]
