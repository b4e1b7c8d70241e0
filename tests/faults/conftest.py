"""libp2p 0.8.1 imports `websockets.legacy`, which warns that it is deprecated; elsewhere a warning fails a test. And a
disk that is soon full, and names that are never resolved."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401

DISK = 1024 * 1024  # bytes on the small disk
SILENT = "127.0.0.77"  # a name server that never answers


@pytest.fixture
def small_disk(root: None, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of its own, of `DISK` bytes."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def silent_names(root: None, tmp_path: Path) -> list[str]:
    """A command in front of another, which then asks a name server that never answers."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {SILENT}\noptions timeout:30 attempts:1\n")
    script = f'mount --bind {resolv} /etc/resolv.conf && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]
