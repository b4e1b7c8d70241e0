"""The machine that the tests of the service run in: it says how its command ended, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.service.machine import WITH_SYSTEMD, until

TIME_OVER = 98


def in_a_machine(seconds: int, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WITH_SYSTEMD, str(seconds), "bash", "-c", script], capture_output=True, text=True, check=False
    )


def test_a_command_ends_as_it_ends_anywhere(systemd: None) -> None:
    ran = in_a_machine(600, "systemctl is-active basic.target; exit 7")
    assert (ran.returncode, ran.stdout) == (7, "active\n")


def test_what_it_writes_reaches_nothing_here(systemd: None, tmp_path: Path) -> None:
    ran = in_a_machine(600, f"touch {tmp_path}/a /dev/shm/with-systemd-was-here /etc/with-systemd-was-here")
    assert ran.returncode == 0, ran.stderr
    for place in (tmp_path / "a", *map(Path, ("/dev/shm/with-systemd-was-here", "/etc/with-systemd-was-here"))):
        assert not place.exists()


def test_when_its_time_is_over_all_of_it_ends(systemd: None) -> None:
    mark = "31415.9265"  # seconds of sleep that nobody else wants
    assert in_a_machine(3, f"sleep {mark}").returncode == TIME_OVER
    # What was killed takes a moment to go
    until(lambda: mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout)
