"""The ``fabstir`` command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WITHIN = 60  # seconds; a bound, never a wait


class Command:
    """``fabstir``, in an environment in which only ``FABSTIR_API`` says where the daemon is."""

    def __init__(self, directory: Path, api: str | None) -> None:
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": os.getcwd()}
        if api is not None:
            self.environ["FABSTIR_API"] = api

    def start(self, *args: str, **settings: Any) -> subprocess.Popen[str]:
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": self.environ, "text": True} | settings
        return subprocess.Popen([sys.executable, "-m", "fabstir_client", *args], **settings)

    def __call__(self, *args: str, status: int = 0) -> str:
        """Its output; stderr instead where a status other than 0 is expected, which must be one line then."""
        process = self.start(*args)
        output, errors = process.communicate(timeout=WITHIN)
        assert process.returncode == status, (output, errors)
        if status == 0:
            assert errors == ""
            return output
        assert output == ""
        assert errors.startswith("fabstir: ")
        assert errors.count("\n") == 1
        return errors


def read_lines(process: subprocess.Popen[str], number: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(number)]
