"""Checks the results, errors and events of a script against the OpenRPC document.

The document lets objects grow, so that clients do not break when they do. Here objects are closed: a script with more
fields than the daemon has contains a mistake.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from fabstir_client.api.errors import InvalidParams, MethodNotFound

Json = dict[str, Any]
SHOWN = 200  # characters of a wrong value

TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class NotAsDocumented(AssertionError):
    """A script contains something that no daemon sends; the message says what, and where."""


@cache
def document() -> Json:
    """The OpenRPC document of this version of the API."""
    loaded: Json = json.loads(files("fabstir_client").joinpath("openrpc.json").read_bytes())
    return loaded


@cache
def methods() -> Mapping[str, Json]:
    return {method["name"]: method for method in document()["methods"]}


def method(name: str) -> Json:
    """A method in the document. Raises `NotAsDocumented` for an unknown one."""
    if name not in methods():
        raise NotAsDocumented(f"the daemon has no method {name}")
    return methods()[name]


def example(name: str) -> Any:
    """A copy of the method's example result in the document."""
    return copy.deepcopy(method(name)["examples"][0]["result"]["value"])


def hold_result(name: str, value: Any) -> None:
    _hold(method(name)["result"]["schema"], value, f"result of {name}")


def declared(name: str) -> list[str]:
    """The codes of the errors that the method may return."""
    return [reference["$ref"].rpartition("/")[2] for reference in method(name)["errors"]]


def hold_error(name: str, error: Json) -> None:
    """Check the object of an error, which must be one that the method declares."""
    code = error["data"]["code"]
    if code not in declared(name):
        raise NotAsDocumented(f"{name} never fails with {code}, but with {', '.join(declared(name))}")
    _hold(document()["components"]["errors"][code]["data"], error["data"], f"data of {code}")


def hold_event(event: Json) -> None:
    """Check an entry of the event log."""
    titled = {schema.get("title"): schema for schema in document()["components"]["schemas"].values()}
    kind = event["type"]
    if kind not in document()["components"]["schemas"]["EventType"]["enum"]:
        raise NotAsDocumented(f"the daemon has no event {kind}")
    _hold(titled[kind], event, f"event {kind}")


def named_params(name: str, params: Any) -> Json:
    """The parameters of a call by name. Raises the errors that the daemon answers with."""
    if name not in methods():
        raise MethodNotFound(f"there is no method {name}", method=name)
    known = {param["name"]: param for param in methods()[name]["params"]}
    if not isinstance(params, dict | list):
        raise InvalidParams(f"the parameters of {name} are an object or an array")
    if isinstance(params, list):
        if len(params) > len(known):
            raise InvalidParams(f"{name} takes {len(known)} parameters at most, not {len(params)}")
        params = dict(zip(known, params, strict=False))
    for given, value in params.items():
        if given not in known:
            raise InvalidParams(f"{name} has no parameter {given}", param=given)
        try:
            _hold(known[given]["schema"], value, given)
        except NotAsDocumented as error:
            raise InvalidParams(str(error), param=given) from None
    for missing in (one["name"] for one in known.values() if one.get("required") and one["name"] not in params):
        raise InvalidParams(f"{name} needs the parameter {missing}", param=missing)
    return dict(params)


def _hold(schema: Json, value: Any, where: str) -> None:
    """Check a value, with the part of JSON Schema that the document uses. Raises `NotAsDocumented`."""
    if "$ref" in schema:
        _hold(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]], value, where)
    if "type" in schema and not TYPES[schema["type"]](value):
        raise NotAsDocumented(f"{where}: must be of type {schema['type']}, not {_shown(value)}")
    if "const" in schema and value != schema["const"]:
        raise NotAsDocumented(f"{where}: must be {schema['const']!r}, not {_shown(value)}")
    if "enum" in schema and value not in schema["enum"]:
        raise NotAsDocumented(f"{where}: must be one of {', '.join(map(str, schema['enum']))}, not {_shown(value)}")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        raise NotAsDocumented(f"{where}: has {len(value)} characters, and at most {schema['maxLength']}")
    for several in ("anyOf", "oneOf"):
        if several in schema:
            _hold_one(schema[several], value, where)
    if isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        _hold_object(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        for at, item in enumerate(value):
            _hold(schema["items"], item, f"{where}[{at}]")


def _hold_one(choices: list[Json], value: Any, where: str) -> None:
    """Check a value against choices, of which at most one fits in the document."""
    wrong = []
    for schema in choices:
        try:
            return _hold(schema, value, where)
        except NotAsDocumented as error:
            wrong.append(error)
    # An error inside an object says more than that it is not null
    raise max(wrong, key=lambda error: len(str(error).partition(":")[0]))


def _hold_object(schema: Json, value: Json, where: str) -> None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", False)
    for missing in (name for name in schema.get("required", ()) if name not in value):
        raise NotAsDocumented(f"{where}: {missing} is missing")
    for name, item in value.items():
        if name in known:
            _hold(known[name], item, f"{where}.{name}")
        elif others is False:
            raise NotAsDocumented(f"{where}: there is no {name}; there are {', '.join(known)}")
        elif isinstance(others, dict):
            _hold(others, item, f"{where}.{name}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
