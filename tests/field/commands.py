"""The project's programs as a shell runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WITHIN = 60.0  # seconds for a command that ends by itself, on a machine that is busy with other things


def environment(**more: str | None) -> dict[str, str]:
    """Ours without what steers the project's programs; None takes a variable away."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
    merged: Mapping[str, str | None] = {**clean, **more}
    return {name: value for name, value in merged.items() if value is not None}


def words(program: str, *arguments: str) -> list[str]:
    """``fabstir`` or ``fabstird`` as it is installed beside this Python."""
    return [str(Path(sys.executable).with_name(program)), *arguments]


def run(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Its status and what it wrote; it must end by itself."""
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": environment(), **options}
    return subprocess.run(words(program, *arguments), text=True, timeout=WITHIN, check=False, **settings)
