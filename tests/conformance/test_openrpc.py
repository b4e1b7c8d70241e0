"""The OpenRPC document is one: by OpenRPC's own meta-schema, by JSON Schema's, and by its examples, which are real."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from tests.conformance.examples import FILE, NOT_CALLED, record
from tests.conftest import leave_out
from tests.harness.schema import document, hold_message, hold_result

HERE = Path(__file__).parent
JSON_SCHEMA = "https://meta.json-schema.tools"  # what OpenRPC's meta-schema refers to for what a schema is


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Any:
    """Of OpenRPC's meta-schema, from the npm packages that its authors publish."""
    if shutil.which("npm") is None:
        leave_out(pytestconfig, "js", "there is no `npm` here (on Debian: apt-get install nodejs npm)")
    place = tmp_path_factory.mktemp("meta-schema")
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(HERE / "meta-schema" / name, place / name)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(install, cwd=place, check=True, timeout=300, stdin=subprocess.DEVNULL)
    show = (
        'console.log(JSON.stringify([require("@open-rpc/meta-schema").openrpcDocument, '
        'require("@json-schema-tools/meta-schema").default]))'
    )
    shown = subprocess.run(["node", "-e", show], cwd=place, check=True, timeout=60, capture_output=True)
    documents, schemas = json.loads(shown.stdout)
    resource = Resource(contents=schemas, specification=DRAFT7)
    registry: Any = Registry().with_resources([(JSON_SCHEMA, resource), (f"{JSON_SCHEMA}/", resource)])
    return jsonschema.Draft7Validator(documents, registry=registry)


def test_the_meta_schema_of_openrpc_validates_it(validator: Any) -> None:
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document())] == []
    for method in ({**document()["methods"][0], "params": "none"}, {**document()["methods"][0], "extra": 1}):
        assert not validator.is_valid({**document(), "methods": [method]})


def test_every_schema_is_one() -> None:
    schemas = list(document()["components"]["schemas"].values())
    for method in document()["methods"]:
        schemas += [param["schema"] for param in method["params"]] + [method["result"]["schema"]]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_method_has_an_example_that_fits() -> None:
    examples = json.loads(FILE.read_text())
    assert examples["methods"].keys() | NOT_CALLED.keys() == {method["name"] for method in document()["methods"]}, (
        "add the call to tests/conformance/examples.py, then: python -m tests.conformance.examples"
    )
    for name, example in examples["methods"].items():
        hold_result(example["result"], name)
    for name, params in examples["notifications"].items():
        hold_message({"jsonrpc": "2.0", "method": name, "params": params}, None)


def shape(value: Any) -> Any:
    """The keys and types of a value; of an array, those of its first element. The keys of maps come and go, and so do
    warnings in the log, and peers that have not answered in time."""
    if isinstance(value, dict):
        comes_and_goes = ("answered", "bounds", "failures", "lines")
        return {key: type(one).__name__ if key in comes_and_goes else shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


async def test_the_examples_are_what_a_daemon_answers() -> None:
    recorded, committed = await record(), json.loads(FILE.read_text())
    for name, example in committed["methods"].items():
        assert shape(recorded["methods"][name]) == shape(example), f"{name}: python -m tests.conformance.examples"
    assert shape(recorded["notifications"]) == shape(committed["notifications"])
