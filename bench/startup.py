#!/usr/bin/env python3
"""How soon does the API answer, and how soon is the node started? Seconds from exec, medians of several daemons.

usage: .venv/bin/python bench/startup.py [RUNS]
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def once() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="fabstir-") as directory:
        command = [sys.executable, "-m", "fabstird", "run", "--data-dir", directory, "--set", "api.http=127.0.0.1:0"]
        command += ["--set", "node.enable_mdns=false", "--set", "node.enable_dht=false"]  # alone on a shared machine
        begun = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
            connection = reached(Path(directory) / "api.sock")
            first = started = 0.0
            with connection, connection.makefile("rwb") as lines:
                while not started:
                    lines.write(b'{"jsonrpc":"2.0","id":1,"method":"status"}\n')
                    lines.flush()
                    status = json.loads(lines.readline())["result"]
                    first = first or time.perf_counter() - begun
                    if status["state"] == "started":
                        started = time.perf_counter() - begun
            daemon.terminate()
    return first, started


def reached(path: Path) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            time.sleep(0.002)
        else:
            return connection


if __name__ == "__main__":
    once()  # files into the cache
    runs = [once() for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 9)]
    first = statistics.median(run[0] for run in runs)
    started = statistics.median(run[1] for run in runs)
    print(f"first answer {first:.3f} s, started {started:.3f} s, ratio {first / started:.2f} (medians of {len(runs)})")
