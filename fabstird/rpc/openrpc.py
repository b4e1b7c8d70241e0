"""The OpenRPC document, made from the method table: the answer of ``fabstird openrpc``, ``GET /openrpc.json`` and
``rpc.discover`` (open-rpc.org, specification 1.3). Parameters, results, errors and events come from the vocabulary.

OpenRPC has no word for notifications: they stand under ``x-notifications``. An error's ``data`` refers to the schema of
what an answer holds there. Objects may get further fields later, never lose one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import msgspec

from fabstir_client import types_errors
from fabstir_client.errors import (
    DeadlineExceeded,
    Forbidden,
    InternalError,
    InvalidParams,
    InvalidRequest,
    LimitExceeded,
    MethodNotFound,
    ParseError,
    RpcError,
    TooLarge,
)
from fabstir_client.types import Lagged, NodeOverrides, Params, Record
from fabstir_client.types_events import EVENT_DATA
from fabstird import __version__, config
from fabstird.rpc import describe
from fabstird.rpc.dispatch import Method

Json = dict[str, Any]

# Any call may end in these, whatever its method does.
COMMON_ERRORS: tuple[type[RpcError], ...] = (
    InvalidParams,
    DeadlineExceeded,
    TooLarge,
    LimitExceeded,
    Forbidden,
    InternalError,
)
# These answer a text before it is known to be a call of any method.
EARLY_ERRORS: tuple[type[RpcError], ...] = (ParseError, InvalidRequest, MethodNotFound)

_REF = "#/components/schemas/{name}"
Document = Annotated[Json, msgspec.Meta(description="An OpenRPC document, as https://open-rpc.org specifies it")]


class Heartbeat(Record, frozen=True):
    """Nothing happened for a while; every event up to ``head`` that was asked for has been sent."""

    subscription: str
    head: int


class LaggedNotice(Lagged, frozen=True, kw_only=True):
    """Stands where entries are missing from a stream."""

    subscription: str
    missed: int | None  # how many; null where they were another run's, of which nobody knows the number
    resume: int  # number of the event that comes next


def document(methods: list[Method]) -> Json:
    """The document as plain values; `render` gives its bytes."""
    errors = sorted(RpcError.__subclasses__(), key=lambda error: -error.rpc_code)
    data = [types_errors.ERROR_DATA.get(error.code, types_errors.ErrorData) for error in errors]
    shown = [NodeOverrides, config.Config, LaggedNotice, Heartbeat, *data, *EVENT_DATA.values()]
    # Parameters are shown field by field; as schemas they would appear twice.
    inputs = [field.type for method in methods for field in msgspec.structs.fields(method.params)]
    given = [method.result for method in methods]
    schemas, components = msgspec.json.schema_components([*shown, *inputs, *given], ref_template=_REF)
    _describe(components)
    results = dict(zip((method.name for method in methods), schemas[-len(given) :], strict=True))
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "fabstird",
            "version": __version__,
            "description": "Local P2P daemon on libp2p. Instants are ms since the Unix epoch, durations are ms.",
        },
        "methods": [_method(method, results[method.name]) for method in methods],
        "components": {
            "schemas": {**components, **_events()},
            "errors": {error.code: _error(error) for error in errors},
        },
        "x-notifications": _notifications(),
    }


def render(methods: list[Method]) -> bytes:
    """The same bytes wherever the document is asked for."""
    return msgspec.json.format(msgspec.json.encode(document(methods)), indent=2) + b"\n"


# --------------------------------------------------------------------------------------------------------------------
# Methods


def _method(method: Method, result: Json) -> Json:
    description = describe.text(method.handler)
    errors = COMMON_ERRORS + method.errors
    return {
        "name": method.name,
        "summary": method.summary,
        **({"description": description} if description else {}),
        "x-access": method.needs,
        "paramStructure": "either",
        "params": _params(method.params),
        "result": {"name": "result", "schema": result},
        "errors": [{"$ref": f"#/components/errors/{error.code}"} for error in dict.fromkeys(errors)],
        **_example(method),
    }


def _params(params: type[Params]) -> list[Json]:
    fields = msgspec.structs.fields(params)
    schemas, _ = msgspec.json.schema_components([field.type for field in fields], ref_template=_REF)
    described = describe.fields(params)
    return [
        {
            "name": field.encode_name,
            "description": described[field.encode_name],
            "required": field.required,
            "schema": schema,
        }
        for field, schema in zip(fields, schemas, strict=True)
    ]


def _error(error: type[RpcError]) -> Json:
    data = types_errors.ERROR_DATA.get(error.code, types_errors.ErrorData)
    return {"code": error.rpc_code, "message": error.code, "data": {"$ref": _REF.format(name=data.__name__)}}


@cache
def examples() -> Json:
    """By method, parameters and result as they went over the wire; under "notifications", one of each kind."""
    text = files("fabstird.rpc").joinpath("examples.json").read_text()
    recorded: Json = json.loads(text)
    return recorded


def _example(method: Method) -> Json:
    found = examples()["methods"].get(method.name)
    if found is None:
        return {}
    params = [{"name": name, "value": value} for name, value in found["params"].items()]
    result = {"name": "result", "value": found["result"]}
    return {"examples": [{"name": f"{method.name} example", "params": params, "result": result}]}


# --------------------------------------------------------------------------------------------------------------------
# Components


def _describe(components: Json) -> None:
    """Say what each field means, and that ``data`` of an error holds the code that it is for."""
    records = {cls.__name__: cls for cls in _descendants(msgspec.Struct)}
    for name, schema in components.items():
        if name not in records:  # sections of the configuration: config.example.toml describes each key
            schema.pop("description", None)
            schema["required"] = list(schema["properties"])
            for field in schema["properties"].values():
                field.pop("default", None)
            continue
        cls = records[name]
        if "description" in schema:
            schema["description"] = describe.text(cls)
        described = describe.fields(cls)
        for field, about in schema["properties"].items():
            if described[field]:
                about["description"] = described[field]
            if about.get("default", ...) is None and issubclass(cls, Record):  # it is left out then, and never null
                del about["default"]
                about |= about.pop("anyOf", [{}])[0]


def _descendants(cls: type) -> Iterable[type]:
    """Of the vocabulary: no other library's structs are described here."""
    children: list[type] = cls.__subclasses__()
    for child in children:
        if child.__module__.startswith(("fabstir_client.types", "fabstird.rpc")):
            yield child
        yield from _descendants(child)


def _events() -> Json:
    """The closed union of events: one schema for each type, and the one of which each is a case."""
    cases: Json = {}
    for name, data in EVENT_DATA.items():
        cases[f"{data.__name__}Event"] = {
            "title": name,
            "description": describe.text(data),
            "type": "object",
            "properties": {
                "subscription": {"type": "string", "description": "which one it is sent for; in notifications only"},
                "epoch": {"type": "string", "description": describe.GLOSSARY["epoch"]},
                "seq": {"type": "integer", "description": describe.GLOSSARY["seq"]},
                "time": {"type": "integer", "description": describe.GLOSSARY["time"]},
                "type": {"const": name},
                "data": {"$ref": _REF.format(name=data.__name__)},
            },
            "required": ["epoch", "seq", "time", "type", "data"],
        }
    union = [{"$ref": _REF.format(name=name)} for name in cases]
    kinds = {"description": "The type of an event", "type": "string", "enum": list(EVENT_DATA)}
    return {**cases, "Event": {"description": "An entry of the event log", "oneOf": union}, "EventType": kinds}


def _notifications() -> Json:
    """What is sent on a connection without being an answer: the method, and its ``params``."""
    about = {
        "event": ("An entry of the event log", "Event"),
        "lagged": (describe.text(LaggedNotice), "LaggedNotice"),
        "heartbeat": (describe.text(Heartbeat), "Heartbeat"),
    }
    return {
        name: {
            "summary": summary,
            "params": {"$ref": _REF.format(name=schema)},
            "example": examples()["notifications"][name],
        }
        for name, (summary, schema) in about.items()
    }
