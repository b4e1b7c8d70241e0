"""Signals in the first and in the last moments of the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.field.commands import WITHIN, environment, run, words
from tests.harness import wait_until


class Beginning:
    """A daemon that has just been started."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "log"
        settings = ("--set", "api.http=127.0.0.1:0", "--set", "node.auto_start=false")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                words("fabstird", "run", "--data-dir", str(self.data_dir), *settings),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def catches(self, number: int) -> bool:
        """Whether the signal is caught by now, as the kernel says."""
        with open(f"/proc/{self.process.pid}/status") as file:
            (mask,) = (line.split()[1] for line in file if line.startswith("SigCgt:"))
        return bool(int(mask, 16) >> (number - 1) & 1)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(WITHIN)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGHUP, "configuration reloaded"),
        (signal.SIGUSR1, "task tree"),
        (signal.SIGTERM, ""),
        (signal.SIGINT, ""),
    ],
)
def test_the_first_moments(tmp_path: Path, number: signal.Signals, words: str) -> None:
    """Armed before anything heavy is loaded, and what comes then is done as soon as it can be."""
    daemon = Beginning(tmp_path)
    try:
        wait_until(lambda: daemon.catches(signal.SIGUSR1), within=WITHIN)
        daemon.process.send_signal(number)
        if words:
            wait_until(lambda: words in daemon.text() or daemon.process.poll() is not None, within=WITHIN)
            assert words in daemon.text()
            assert daemon.end() == 0
        else:
            assert daemon.process.wait(WITHIN) == 0
        assert "Traceback" not in daemon.text()
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_nothing_heavy_is_loaded_before_signals_are_armed() -> None:
    loaded = "import sys, fabstird.entry, fabstird.signals; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=WITHIN)
    assert not {"trio", "ssl", "structlog", "libp2p"} & set(done.stdout.split())


def test_the_last_moments(tmp_path: Path) -> None:
    """It was told to end by a call; a SIGTERM that comes as it winds down changes nothing."""
    daemon = Beginning(tmp_path)
    try:
        assert run("fabstir", "--data-dir", str(daemon.data_dir), "wait", "ready", "--timeout", "50").returncode == 0
        assert run("fabstir", "--data-dir", str(daemon.data_dir), "shutdown").returncode == 0
        wait_until(lambda: '"daemon stopped"' in daemon.text(), within=WITHIN)
        sent = False
        for _ in range(2000):
            if daemon.process.poll() is not None:
                break
            if not daemon.catches(signal.SIGUSR1):  # the interpreter takes its handlers away, or they are ignored
                os.kill(daemon.process.pid, signal.SIGTERM)
                sent = True
            time.sleep(0.0005)
        assert daemon.process.wait(WITHIN) == 0, sent
    finally:
        daemon.process.kill()
        daemon.process.wait()


@pytest.mark.parametrize("command", ["check-config", "id", "openrpc"])
def test_other_commands_die_of_an_interrupt_without_a_word(tmp_path: Path, command: str) -> None:
    more = ("--data-dir", str(tmp_path)) if command == "id" else ()
    process = subprocess.Popen(
        words("fabstird", command, *more), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    # Python catches it when it starts; from the entry's first instructions on it has its usual effect
    wait_until(lambda: process.poll() is not None or catches(process.pid), within=WITHIN)
    wait_until(lambda: process.poll() is not None or not catches(process.pid), within=WITHIN)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WITHIN)
    assert process.returncode in (0, -signal.SIGINT)  # it may have been quicker
    assert b"Traceback" not in errors


def catches(pid: int) -> bool:
    """Whether the process has a handler for SIGINT."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) & 1 << (signal.SIGINT - 1))


STUCK = """
import time, trio
from fabstird import signals

signals.LAST = 0.3
armed = signals.Signals()

async def run():
    armed.attach(lambda: None, *[lambda: None] * 3, lambda: print("late", flush=True))
    print("ready", flush=True)
    if {stuck}:
        while True:
            time.sleep(0.01)  # the event loop does not turn
    await trio.sleep_forever()

trio.run(run)
"""


@pytest.mark.parametrize("stuck", [False, True])
def test_a_stop_that_takes_too_long_is_cut_off(stuck: bool) -> None:
    """With nine thousand peers it took ten seconds; and what hangs for good was never stopped by SIGTERM."""
    command = [sys.executable, "-c", STUCK.format(stuck=stuck)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(WITHIN) == 0
        assert process.stdout.read() == "late\n"
