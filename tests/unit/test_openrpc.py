"""The OpenRPC document: committed as the code makes it, and true to the method table."""

import json
import subprocess
import sys
from pathlib import Path

from fabstird.rpc.methods import METHODS
from fabstird.rpc.openrpc import render

COMMITTED = Path(__file__).parents[2] / "docs" / "openrpc.json"


def test_the_committed_document_is_what_the_code_makes() -> None:
    assert COMMITTED.read_bytes() == render(METHODS), "run: fabstird openrpc > docs/openrpc.json"


def test_the_command_prints_the_same_bytes() -> None:
    printed = subprocess.run([sys.executable, "-m", "fabstird", "openrpc"], capture_output=True, check=True, timeout=30)
    assert printed.stdout == COMMITTED.read_bytes()


def test_every_method_and_reference_is_there() -> None:
    document = json.loads(COMMITTED.read_text())
    assert [method["name"] for method in document["methods"]] == [method.name for method in METHODS]
    references = [text.split('"')[0] for text in COMMITTED.read_text().split('"$ref": "#/')[1:]]
    assert references
    for reference in references:
        target = document
        for step in reference.split("/"):
            target = target[step]


def test_every_method_says_what_access_it_needs() -> None:
    document = json.loads(COMMITTED.read_text())
    told = {method["name"]: method["x-access"] for method in document["methods"]}
    assert told == {method.name: method.needs for method in METHODS}
    for method in METHODS:
        assert method.needs in ("read", "write", "admin")
        assert method.needs != "read" or not method.changes, f"{method.name} changes something; readers must not"
    assert {"status": "read", "connect": "write", "shutdown": "admin"}.items() <= told.items()
