"""docs/terminal.md: what `scripts/captures` makes of commands that it runs, and all of it in 80 columns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHIN = 300  # seconds; a bound, never a wait
WRAPPED = ("$ ", "fabstir: ")  # commands, and the words of errors, which the terminal wraps
ONCE = "The token will not be shown again."


def blocks(text: str) -> list[str]:
    return re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)


def outline(text: str) -> list[str]:
    """Its headings and commands, without ids and ports."""
    found = re.findall(r"^(?:## |\$ fabstir ).*$", text, re.M)
    return [re.sub(r"12D3KooW\w+", "ID", re.sub(r"/tcp/\d+", "/tcp/PORT", line)) for line in found]


def test_the_document_is_made_by_the_script_and_fits(tmp_path: Path) -> None:
    made = tmp_path / "terminal.md"
    subprocess.run([sys.executable, ROOT / "scripts" / "captures", made], check=True, timeout=WITHIN, cwd=ROOT)
    now, kept = made.read_text(), (ROOT / "docs" / "terminal.md").read_text()
    assert outline(now) == outline(kept), "run scripts/captures"
    for text in (now, kept):
        lines = [line for block in blocks(text) for line in block.splitlines()]
        assert [one for one in lines if len(one) > 80 and not one.startswith(WRAPPED) and ONCE not in one] == []
        assert "Traceback" not in text
        assert all(
            re.search(rf"^{words}", text, re.M) for words in ("state +started", "PEER +DIR", " +kept, 0 open", "q quit")
        )
