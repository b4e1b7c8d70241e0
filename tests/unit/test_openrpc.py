"""The OpenRPC document: committed as the code makes it, and true to the method table."""

import json
import re
import subprocess
import sys
from pathlib import Path

from fabstir_client.types_events import EVENT_DATA
from fabstird.rpc import markdown
from fabstird.rpc.methods import METHODS
from fabstird.rpc.openrpc import render

COMMITTED = Path(__file__).parents[2] / "docs" / "openrpc.json"


def test_the_committed_document_is_what_the_code_makes() -> None:
    assert COMMITTED.read_bytes() == render(METHODS), "run: make docs"


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


def test_every_parameter_field_and_method_is_described() -> None:
    document = json.loads(COMMITTED.read_text())
    silent = [
        f"{method['name']}({param['name']})"
        for method in document["methods"]
        for param in method["params"]
        if not param["description"]
    ]
    for name, schema in document["components"]["schemas"].items():
        for field, about in schema.get("properties", {}).items():
            if not {"description", "$ref", "const"} & about.keys() and not name.endswith("Config"):
                silent.append(f"{name}.{field}")
    assert silent == [], "say what they mean in a comment behind the field, in fabstir_client/types*.py"


def test_the_errors_of_a_method_are_those_that_it_declares() -> None:
    document = json.loads(COMMITTED.read_text())
    errors = {
        method["name"]: {error["$ref"].rpartition("/")[2] for error in method["errors"]}
        for method in document["methods"]
    }
    common = {"INVALID_PARAMS", "TIMEOUT", "TOO_LARGE", "LIMIT_EXCEEDED", "FORBIDDEN", "INTERNAL_ERROR"}
    assert errors["status"] == common
    assert errors["connect"] == common | {"NODE_NOT_RUNNING", "PEER_NOT_FOUND", "DIAL_FAILED"}


def test_events_are_a_closed_union() -> None:
    schemas = json.loads(COMMITTED.read_text())["components"]["schemas"]
    cases = [schemas[case["$ref"].rpartition("/")[2]] for case in schemas["Event"]["oneOf"]]
    assert [case["properties"]["type"]["const"] for case in cases] == list(EVENT_DATA) == schemas["EventType"]["enum"]


def test_the_reference_for_people_is_what_the_code_makes() -> None:
    _, marker, made = (COMMITTED.parent / "api.md").read_text().partition("<!-- made by: make docs -->\n\n")
    assert marker
    assert made == markdown.render(METHODS).decode(), "run: make docs"


def test_every_link_within_the_reference_leads_somewhere() -> None:
    text = (COMMITTED.parent / "api.md").read_text()
    headings = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^a-z0-9 _-]", "", heading).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links
    assert links <= anchors
