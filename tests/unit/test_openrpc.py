"""The OpenRPC document: committed as the code makes it, and true to the method table."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.types import NoParams
from fabstird.rpc import markdown
from fabstird.rpc.methods.table import METHODS, OPENRPC
from fabstird.rpc.openrpc import render

COMMITTED = Path(__file__).parents[2] / "docs" / "openrpc.json"
CLIENTS = Path(__file__).parents[2] / "fabstir_client" / "openrpc.json"  # for programs that have the client alone


def test_the_committed_document_is_what_the_code_makes() -> None:
    assert COMMITTED.read_bytes() == render(METHODS), "run: make docs"
    assert CLIENTS.read_bytes() == render(METHODS), "run: make docs"


def test_the_daemon_makes_it_once() -> None:
    """It was made anew for each call: a tenth of a second of the loop, of any caller that may read, as often as it
    liked."""
    assert OPENRPC.file == render(METHODS)
    discover = next(method.handler for method in METHODS if method.name == "rpc.discover")
    call: Any = None
    told = discover(call, NoParams())
    assert b"\n" not in bytes(told), "it is one line of the IPC socket"
    assert json.loads(bytes(told)) == json.loads(OPENRPC.file)
    assert discover(call, NoParams()) is told


def test_the_command_prints_the_same_bytes() -> None:
    printed = subprocess.run([sys.executable, "-m", "fabstird", "openrpc"], capture_output=True, check=True, timeout=90)
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
    assert silent == [], "say what they mean in a comment behind the field, in fabstir_client/api/"


def test_a_comment_above_a_field_describes_it_too() -> None:
    schemas = json.loads(COMMITTED.read_text())["components"]["schemas"]
    described = schemas["AddressReachability"]["properties"]["state"]["description"]
    assert described.startswith('"reachable": several servers')
    assert described.endswith("of an address in a private network")
    assert schemas["TokenRecord"]["properties"]["protocols"]["description"].startswith("patterns of the protocols")


def test_closed_sets_of_words_are_enumerations() -> None:
    document = json.loads(COMMITTED.read_text())
    schemas = document["components"]["schemas"]
    codes = set(document["components"]["errors"])
    assert set(schemas["AuditEntry"]["properties"]["outcome"]["enum"]) == {"ok", "unchanged", "CANCELLED"} | codes
    assert schemas["InvalidStateData"]["properties"]["reason"]["enum"] == ["protocol", "stream"]
    levels = ["debug", "info", "warning", "error"]
    assert schemas["LogLevels"]["properties"]["level"]["enum"] == levels
    [method] = [method for method in document["methods"] if method["name"] == "log.level"]
    [asked] = [param["schema"]["anyOf"][0]["enum"] for param in method["params"] if param["name"] == "level"]
    assert asked == [*levels, "inherit"]


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


def test_no_field_has_a_plain_text_for_a_closed_set() -> None:
    schemas = json.loads(COMMITTED.read_text())["components"]["schemas"]
    closed = {"access", "direction", "framing", "granted", "lease", "mode", "needed", "outcome", "state", "transport"}
    others = {
        ("ApiConfig", "ipc_group_access"),
        ("LogConfig", "format"),
        ("LogConfig", "level"),
        ("NodeConfig", "security"),
        ("PeerDisconnected", "reason"),
    }
    fields = [
        (name, field, schema)
        for name, whole in schemas.items()
        for field, schema in whole.get("properties", {}).items()
        if field in closed or (name, field) in others
    ]
    assert len(fields) > 25
    plain = [(name, field) for name, field, schema in fields if not _enumerations(schema)]
    assert plain == []


def _enumerations(schema: Any) -> list[Any]:
    if isinstance(schema, dict):
        found = [schema["enum"]] if "enum" in schema else []
        return found + [each for inner in schema.values() for each in _enumerations(inner)]
    return [each for inner in schema for each in _enumerations(inner)] if isinstance(schema, list) else []


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
