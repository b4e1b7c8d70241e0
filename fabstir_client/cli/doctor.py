"""``fabstir doctor``: prints the findings, with the cure for each fault."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import msgspec

from fabstir_client._core.discovery import Target
from fabstir_client.cli import fitting
from fabstir_client.cli.doctor_checks import run_checks
from fabstir_client.cli.doctor_findings import Finding
from fabstir_client.cli.format import clean, counted
from fabstir_client.cli.observe import coloured
from fabstir_client.cli.progress import progress

DONE, FAULTY = 0, 1
INDENT = 20  # columns before the words of a finding
COLOURS = {"ok": "32", "warning": "33", "fault": "31;1", "skipped": "2"}


def run(target: Target, args: argparse.Namespace, _: Callable[[str, int], int]) -> int:
    findings = []
    colour = coloured("auto")
    with progress("checking"):
        for finding in run_checks(target, args.config):
            findings.append(finding)
            if not args.json:
                print("\x1b[K" * colour + text(finding, colour=colour), flush=True)
    count = {state: sum(finding.state == state for finding in findings) for state in COLOURS}
    if args.json:
        sys.stdout.buffer.write(msgspec.json.encode({"ok": not count["fault"], "findings": findings}) + b"\n")
    else:
        print("\n" + ", ".join(counted(count[state], state) for state in ("fault", "warning")))
    return FAULTY if count["fault"] else DONE


def text(finding: Finding, *, colour: bool) -> str:
    """One finding, and its cure on the next line."""
    state = f"{finding.state:<8}"
    if colour:
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    lines = [*fitting.broken(clean(finding.text), INDENT)]
    if finding.cure:
        lines += fitting.broken(f"cure: {clean(finding.cure)}", INDENT)
    return f"{state} {finding.check:<10} " + f"\n{'':<{INDENT}}".join(lines)
