"""`fabstir_client.testing`, as whoever tests a program of theirs uses it: the file that docs/testing.md shows, run by
pytest in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fabstir_client.testing import Daemon, DaemonFailed, running_daemon

SHOWN = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
WITHIN = 300  # seconds; a bound, never a wait


def run(place: Path, text: str, *arguments: str) -> str:
    """What pytest says of a file of this text, where nothing of this project's own configuration is seen."""
    (place / "test_mine.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        str(place),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "--strict-markers", "-W", "error", *arguments, "test_mine.py"],
        cwd=place,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    return done.stdout + done.stderr


def test_what_the_document_shows(tmp_path: Path) -> None:
    scripted, real = re.findall(r"^```python\n(.*?)^```", SHOWN, re.M | re.S)
    for program, tests in ((scripted, 4), (real, 5)):  # one of each under asyncio and under trio
        told = run(tmp_path, program)
        assert re.search(rf"^{tests} passed\b", told, re.M), told


def test_a_failed_test_shows_the_log_and_a_daemon_that_does_not_start_says_why(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        "import pytest\n"
        "def test_fails(fabstird):\n    assert not fabstird.peer_id\n"
        '@pytest.mark.fabstird({"node.nonsense": 1})\ndef test_never(fabstird_pair):\n    pass\n',
    )
    assert re.search(r"^1 failed, 1 error\b", told, re.M), told
    assert '"event": "API ready"' in told
    assert "the daemon ended with status 2; its log ends with:" in told
    assert "node.nonsense: unknown key" in told


def test_a_daemon_that_ends_by_itself_fails_its_test() -> None:
    def crash(daemon: Daemon) -> None:
        os.kill(daemon.api["pid"], 9)
        daemon.wait_ended()

    with pytest.raises(DaemonFailed, match="ended with status -9"), running_daemon() as daemon:
        crash(daemon)
