"""The examples of `examples/typescript`, as a reader would run them: two daemons, and a project with the package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients import toolbox
from tests.clients.toolbox import ROOT, Tools
from tests.harness import RunningDaemon, running_daemon

EXAMPLES = ROOT / "examples" / "typescript"


@pytest.fixture(scope="module")
def daemons() -> Iterator[tuple[RunningDaemon, RunningDaemon]]:
    with running_daemon() as here, running_daemon() as there:
        yield here, there


@pytest.fixture
def examples(installed: Path, tmp_path: Path) -> Path:
    """A copy beside the package."""
    place = tmp_path / "examples"
    shutil.copytree(EXAMPLES, place)
    (place / "node_modules").symlink_to(installed / "node_modules")
    return place


@contextmanager
def host(tools: Tools, examples: Path, name: str, running: RunningDaemon) -> Iterator[str]:
    """One that serves; the address that it prints."""
    command = [tools.node("18"), str(examples / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"FABSTIR_API": running.ipc}) as popen:
        assert popen.stdout is not None
        try:
            address = popen.stdout.readline().strip()
            assert address.startswith("/ip4/127.0.0.1/tcp/"), address
            yield address
        finally:
            popen.kill()


@pytest.mark.parametrize("name", ["tokens.cjs", "tokens.mjs"])
@pytest.mark.parametrize("major", ["18", "22"])
def test_tokens(
    tools: Tools, examples: Path, daemons: tuple[RunningDaemon, RunningDaemon], name: str, major: str
) -> None:
    here, there = daemons
    with host(tools, examples, "tokens-host.mjs", there) as address:
        told = toolbox.run([tools.node(major), name, address], examples, {"FABSTIR_API": here.ipc})
    tokens, *events = told.splitlines()
    assert int(tokens.removesuffix(" tokens")) >= 5000
    assert events[-2:] == ["peer:connect", "peer:disconnect"]


def test_jobs(tools: Tools, examples: Path, daemons: tuple[RunningDaemon, RunningDaemon]) -> None:
    here, there = daemons
    with host(tools, examples, "job-host.mjs", there) as address:
        for most, expected in (("20", "20 tokens, beginning with word0 word1"), ("99999", "the host rejected: ")):
            told = toolbox.run([tools.node(), "job.mjs", address, most], examples, {"FABSTIR_API": here.ipc})
            assert told.startswith(expected), told


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        "job-host.mjs", "job.mjs", "lines.mjs", "tokens-host.mjs", "tokens.cjs", "tokens.mjs",
    }  # fmt: skip
