"""The OpenRPC document in Markdown: half of docs/api.md, and the output of ``fabstird openrpc --markdown``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fabstir_client.api.errors import RpcError
from fabstird.rpc import field_docs as describe
from fabstird.rpc.dispatch import Method
from fabstird.rpc.openrpc import COMMON_ERRORS, document

Json = dict[str, Any]


def render(methods: list[Method]) -> bytes:
    openrpc = document(methods)
    parts = [
        "## Methods",
        _methods(openrpc["methods"]),
        *(_method(method) for method in openrpc["methods"]),
        "## Notifications",
        *(_notification(name, about) for name, about in openrpc["x-notifications"].items()),
        "## Event types",
        _events(openrpc["components"]["schemas"]),
        "## Errors",
        _errors(openrpc),
        "## Types",
        *_types(openrpc["components"]["schemas"]),
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _methods(methods: list[Json]) -> str:
    rows = [(f"[`{one['name']}`](#{_anchor(one['name'])})", one["x-access"], one["summary"]) for one in methods]
    return _table(("method", "access", ""), rows)


def _method(method: Json) -> str:
    common = {error.code for error in COMMON_ERRORS}
    own = [reference["$ref"].rpartition("/")[2] for reference in method["errors"]]
    params = [
        (f"`{one['name']}`" + ("" if one["required"] else "?"), _param(one["schema"]), one["description"])
        for one in method["params"]
    ]
    errors = ", ".join(f"`{code}`" for code in own if code not in common)
    parts = [
        f"### `{method['name']}`",
        method["summary"] + ". " + method.get("description", ""),
        _table(("parameter", "type", ""), params) if params else "No parameters.",
        f"Result: {_type(method['result']['schema'])}." + (f" Errors: {errors}." if errors else ""),
        *(_exchange(method["name"], example) for example in method.get("examples", ())),
    ]
    return "\n\n".join(part.rstrip() for part in parts)


def _exchange(name: str, example: Json) -> str:
    params = {one["name"]: one["value"] for one in example["params"]}
    request: Json = {"jsonrpc": "2.0", "id": 1, "method": name, **({"params": params} if params else {})}
    answer = {"jsonrpc": "2.0", "result": example["result"]["value"], "id": 1}
    return f"```json\n{_json(request)}\n{_json(answer)}\n```"


def _notification(name: str, about: Json) -> str:
    message = {"jsonrpc": "2.0", "method": name, "params": about["example"]}
    return f"### `{name}`\n\n{about['summary']}\n\nParams: {_type(about['params'])}.\n\n```json\n{_json(message)}\n```"


def _events(schemas: Json) -> str:
    """One row for each type, with the fields of its data."""
    rows = []
    for case in schemas["Event"]["oneOf"]:
        event = _named(schemas, case)
        data = _named(schemas, event["properties"]["data"])
        required = data.get("required", [])
        fields = [
            f"`{name}`{'' if name in required else '?'} {_type(about)}: {about.get('description', '')}"
            for name, about in data["properties"].items()
        ]
        rows.append((f"`{event['title']}`", event["description"], "<br>".join(fields)))
    return _table(("type", "when", "data"), rows)


def _errors(openrpc: Json) -> str:
    classes = {error.code: error for error in RpcError.__subclasses__()}
    rows = []
    for code, about in openrpc["components"]["errors"].items():
        data = _named(openrpc["components"]["schemas"], about["data"])
        fields = [
            f"`{name}`{'' if name in data['required'] else '?'} {_type(field)}: {field['description']}"
            for name, field in data["properties"].items()
            if name not in ("code", "retryable")
        ]
        retry = "yes" if classes[code].retryable else "no"
        rows.append((f"{about['code']}", f"`{code}`", retry, describe.text(classes[code]), "<br>".join(fields)))
    return _table(("code", "`data.code`", "`data.retryable`", "when", "further `data`"), rows)


def _types(schemas: Json) -> list[str]:
    parts = []
    shown_above = {"Event", "EventType"} | {name for name in schemas if name.endswith("Data")}
    for case in schemas["Event"]["oneOf"]:
        event = _named(schemas, case)
        shown_above |= {case["$ref"].rpartition("/")[2], event["properties"]["data"]["$ref"].rpartition("/")[2]}
    for name in sorted(schemas.keys() - shown_above):
        schema = schemas[name]
        required = schema.get("required", [])
        rows = [
            (f"`{field}`" + ("" if field in required else "?"), _type(about), about.get("description", ""))
            for field, about in schema["properties"].items()
        ]
        parts += [f"### {name}", schema.get("description", ""), _table(("field", "type", ""), rows) if rows else ""]
    return parts


def _named(schemas: Json, reference: Json) -> Json:
    found: Json = schemas[reference["$ref"].rpartition("/")[2]]
    return found


def _type(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{'event-types' if name in ('Event', 'EventType') else _anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema['items'])}" if schema.get("items") else "array"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        inner = schema["additionalProperties"]
        return f"object of {_type(inner)}" if inner else "object"
    return str(schema.get("type", "anything"))


def _param(schema: Json) -> str:
    """The type of a parameter. Every optional one may also be null, which means the same."""
    return _type(schema).removesuffix(" or null")


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "").replace(" ", "-")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
