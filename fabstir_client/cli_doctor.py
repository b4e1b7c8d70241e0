"""``fabstir doctor``: the findings, with the cure beside each fault."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import msgspec

from fabstir_client.cli_observe import coloured
from fabstir_client.cli_progress import progress
from fabstir_client.cli_tables import clean
from fabstir_client.discovery import Target
from fabstir_client.doctor import Finding, examine

DONE, FAULTY = 0, 1
COLOURS = {"ok": "32", "warning": "33", "fault": "31;1", "skipped": "2"}


def run(target: Target, args: argparse.Namespace, _: Callable[[str, int], int]) -> int:
    findings = []
    colour = coloured("auto")
    with progress("looking"):
        for finding in examine(target, args.config):
            findings.append(finding)
            if not args.json:
                print("\x1b[K" * colour + text(finding, colour=colour), flush=True)
    count = {state: sum(one.state == state for one in findings) for state in COLOURS}
    if args.json:
        sys.stdout.buffer.write(msgspec.json.encode({"ok": not count["fault"], "findings": findings}) + b"\n")
    else:
        told = ", ".join(f"{count[state]} {state}{'' if count[state] == 1 else 's'}" for state in ("fault", "warning"))
        print(f"\n{told}")
    return FAULTY if count["fault"] else DONE


def text(finding: Finding, *, colour: bool) -> str:
    """One finding, and its cure in a line of its own."""
    state = f"{finding.state:<8}"
    if colour:
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    line = f"{state} {finding.check:<10} {clean(finding.text)}"
    return line + (f"\n{'':<19} cure: {clean(finding.cure)}" if finding.cure else "")
