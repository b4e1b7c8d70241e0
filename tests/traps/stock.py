"""Demonstrations of defects on the stock library, each in a process of its own.

py-libp2p 0.8.1 leaves system tasks, sockets and log handlers behind, which is part of what is shown; a process that
ends takes them along. A demonstration is an async function in one of the stock_*.py files: it builds hosts with
`libp2p.new_host` as it comes, and returns a verdict, which crosses over as one line of JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).parents[2]
Verdict = dict[str, Any]


async def stock(file: str, demonstration: str) -> Verdict:
    """Runs one demonstration of tests/traps/stock_<file>.py and returns its verdict."""
    return await in_process(f"stock_{file}", demonstration)


async def in_process(file: str, demonstration: str, *, within: float = 120) -> Verdict:
    command = [sys.executable, "-W", "ignore", "-m", f"tests.traps.{file}", demonstration]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LIBP2P_")}
    with trio.move_on_after(within):
        done = await trio.run_process(
            command, cwd=ROOT, env=environment, capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"{demonstration} ended with {done.returncode}:\n{done.stderr.decode()[-4000:]}")
        verdict: Verdict = json.loads(done.stdout.splitlines()[-1])
        return verdict
    raise AssertionError(f"{demonstration} took more than {within} s")


def main(demonstrations: dict[str, Any]) -> None:
    """What such a file does when it is run: the demonstration named on the command line."""
    verdict = trio.run(demonstrations[sys.argv[1]])
    print(json.dumps(verdict), flush=True)
    os._exit(0)  # what the library left behind is not waited for
