"""Pages of the documents, followed step by step: their files are written, their commands run, and what they show must
be printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

DOCUMENTS = Path(__file__).parents[2] / "docs"
PROGRAMS = Path(sys.executable).parent
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
PEER_ID = re.compile(r"12D3KooW\w{44}")
DONE = "this command is done:"
# One that shares a machine with the daemons of every other test
SETTINGS = {
    "FABSTIRD_NODE__LISTEN_ADDRESSES": '["/ip4/127.0.0.1/tcp/0"]',
    "FABSTIRD_NODE__ENABLE_MDNS": "false",
    "FABSTIRD_NODE__ENABLE_DHT": "false",
    "FABSTIRD_API__HTTP": "",
}


class Shell:
    """A user's shell, in a folder and with a home of their own. What it began in the background ends with it."""

    def __init__(self, home: Path, folder: Path, **environ: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
        path = f"{PROGRAMS}:{os.environ['PATH']}"
        self._environ = {**kept, **SETTINGS, "PATH": path, "HOME": str(home), **environ}
        self._folder = folder

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._folder,
            env=self._environ,
            process_group=0,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:
            os.killpg(self._process.pid, 9)

    def run(self, command: str) -> str:
        """What it prints; it must end well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho; echo '{DONE}' $?\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(DONE):
                assert line.split()[-1] == "0", (command, "".join(lines))
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"the shell ended in {command}: {''.join(lines)}")


def follow(page: str, shells: Mapping[str, Shell], folder: Path) -> int:
    """Write the files of the page into ``folder``, and run its sessions: ``$`` is the first shell, ``bob$`` Bob's. Each
    line that is shown must be in what is printed, whatever the peer ids. Returns how many commands were run."""
    commands = 0
    for language, title, text in BLOCK.findall((DOCUMENTS / page).read_text()):
        if title:
            (folder / title).write_text(text)
        elif language == "console":
            for step in re.split(r"^(?=\w*\$ )", text, flags=re.MULTILINE)[1:]:
                line, *shown = step.splitlines()
                who, _, command = line.partition("$ ")
                printed = PEER_ID.sub("ID", shells[who or next(iter(shells))].run(command))
                commands += 1
                for expected in shown:
                    assert PEER_ID.sub("ID", expected) in printed, (command, expected, printed)
    return commands
