#!/usr/bin/env python3
"""How soon does the API answer, how soon is the node started, what memory does it hold, how soon is it gone? Beside a
js-libp2p node with the same transports and protocols, the interop peer, from exec until it says that it is ready.

usage: .venv/bin/python -m bench.startup [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.anchors import Running, running
from bench.table import Row, table
from tests.interop.jspeer import ensure_installed

SETTLED = 1.0  # seconds after the start, when memory is looked at
LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
SETTINGS = (
    "api.http=127.0.0.1:0",
    "node.enable_mdns=false",  # alone on a shared machine
    f"node.listen_addresses={json.dumps(LISTEN)}",
)


@dataclass
class Found:
    answered: list[float] = field(default_factory=list)  # seconds from exec to the first answer of the API
    started: list[float] = field(default_factory=list)
    answered_cpu: list[float] = field(default_factory=list)  # seconds of CPU until then
    started_cpu: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)  # bytes
    stopped: list[float] = field(default_factory=list)  # seconds from SIGTERM to the end of the process


def ours(found: Found) -> None:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory:
        command = [sys.executable, "-m", "fabstird", "run", "--data-dir", directory]
        for setting in SETTINGS:
            command += ["--set", setting]
        begun = time.perf_counter()
        with running(command, stderr=subprocess.DEVNULL) as process:
            connection = _reached(Path(directory) / "api.sock")
            answered = 0.0
            with connection, connection.makefile("rwb") as lines:
                while True:
                    lines.write(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
                    lines.flush()
                    status = json.loads(lines.readline())["result"]
                    if not answered:
                        answered = time.perf_counter() - begun
                        found.answered_cpu.append(Running(process).cpu())
                    if status["state"] == "started":
                        break
                    time.sleep(0.002)
                found.started.append(time.perf_counter() - begun)
                found.started_cpu.append(Running(process).cpu())
                found.answered.append(answered)
            time.sleep(SETTLED)
            found.resident.append(Running(process).resident())
            found.stopped.append(_stop(process))


def _stop(process: subprocess.Popen[bytes]) -> float:
    begun = time.perf_counter()
    process.terminate()
    process.wait()
    return time.perf_counter() - begun


def theirs(found: Found) -> None:
    command = [*map(str, ensure_installed()), json.dumps({"listen": LISTEN, "dht": "server"})]
    begun = time.perf_counter()
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready", ready
        found.started.append(time.perf_counter() - begun)
        found.started_cpu.append(Running(process).cpu())
        time.sleep(SETTLED)
        found.resident.append(Running(process).resident())
        found.stopped.append(_stop(process))


def measure(rounds: int) -> list[Row]:
    js, fabstird = Found(), Found()
    for number in range(rounds + 1):
        theirs(js)
        ours(fabstird)
        if number == 0:  # files are in the cache now
            js, fabstird = Found(), Found()
    start, start_cpu = statistics.median(js.started), statistics.median(js.started_cpu)
    name, rows = "js-libp2p node", []
    for what, times, cpus, most in (
        ("API answers", fabstird.answered, fabstird.answered_cpu, 0.5),
        ("node started", fabstird.started, fabstird.started_cpu, 1.2),
    ):
        mine = statistics.median(times)
        words = [f"{start:.2f} s, {start_cpu:.2f} s CPU", f"{mine:.2f} s, {statistics.median(cpus):.2f} s CPU"]
        rows.append(Row(f"exec → {what}", name, *words, mine / start, most=most))
    memory, their_memory = statistics.median(fabstird.resident), statistics.median(js.resident)
    words = [f"{size / 1e6:.0f} MB" for size in (their_memory, memory)]
    rows.append(Row("resident memory, started", name, *words, memory / their_memory, most=0.7))
    end, their_end = statistics.median(fabstird.stopped), statistics.median(js.stopped)
    words = [f"{seconds:.3f} s" for seconds in (their_end, end)]
    rows.append(Row("SIGTERM → exit, idle", f"{name}, which says no goodbye", *words, end / their_end, most=5.0))
    return rows


def _reached(path: Path) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            time.sleep(0.002)
        else:
            return connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    print(table(measure(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
