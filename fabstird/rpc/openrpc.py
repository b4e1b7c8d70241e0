"""The OpenRPC document, made from the method table: the output of ``fabstird openrpc``, and the answer of ``GET
/openrpc.json`` and ``rpc.discover`` (open-rpc.org, specification 1.3). Parameters, results, errors and events come from
the vocabulary.

OpenRPC has no notifications, so they are under ``x-notifications``. An error's ``data`` refers to the schema of its
content. Objects may get further fields later, but never lose one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any

import msgspec

from fabstir_client.api import error_data as types_errors
from fabstir_client.api.errors import (
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
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.streams import NOTICES
from fabstir_client.api.types import Lagged, NodeOverrides, Params, Record
from fabstird import __version__, config
from fabstird.rpc import field_docs as describe
from fabstird.rpc.dispatch import Method

Json = dict[str, Any]

# Any call may fail with these, whatever its method.
COMMON_ERRORS: tuple[type[RpcError], ...] = (
    InvalidParams,
    DeadlineExceeded,
    TooLarge,
    LimitExceeded,
    Forbidden,
    InternalError,
)
# Errors for a text before it is known to be a call
EARLY_ERRORS: tuple[type[RpcError], ...] = (ParseError, InvalidRequest, MethodNotFound)

_REF = "#/components/schemas/{name}"
Document = Annotated[Json, msgspec.Meta(description="An OpenRPC document, as https://open-rpc.org specifies it")]


class Heartbeat(Record, frozen=True):
    """Sent when nothing has happened for a while. Every requested event up to ``head`` has been sent."""

    subscription: str
    head: int


class LaggedNotice(Lagged, frozen=True, kw_only=True):
    """Sent in place of events that are missing."""

    subscription: str
    missed: int | None  # how many; null if they were of an earlier run of the daemon, so their number is unknown
    resume: int  # number of the next event


def document(methods: list[Method]) -> Json:
    """The document as plain values; `render` returns its bytes."""
    errors = sorted(RpcError.__subclasses__(), key=lambda error: -error.rpc_code)
    data = [types_errors.ERROR_DATA.get(error.code, types_errors.ErrorData) for error in errors]
    shown = [NodeOverrides, config.Config, LaggedNotice, Heartbeat, *NOTICES, *data, *EVENT_DATA.values()]
    # Parameters are described one by one; as schemas they would appear twice
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
    """The document as bytes, the same wherever it is requested."""
    return msgspec.json.format(msgspec.json.encode(document(methods)), indent=2) + b"\n"


class ServedDocument:
    """The document as the daemon serves it. It is made once, at the first request, because making it blocks the loop
    for a tenth of a second."""

    def __init__(self, methods: list[Method]) -> None:
        self._methods = methods

    @cached_property
    def file(self) -> bytes:
        """As from `render`."""
        return render(self._methods)

    @cached_property
    def value(self) -> msgspec.Raw:
        """As JSON on one line."""
        return msgspec.Raw(msgspec.json.format(self.file, indent=-1))


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
    """By method, parameters and result as sent over the wire; under "notifications", one of each kind."""
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
    """Describe each field, and which code the ``data`` of an error is for."""
    records = {cls.__name__: cls for cls in _descendants(msgspec.Struct)}
    for name, schema in components.items():
        if name not in records:  # sections of the configuration, whose keys config.example.toml describes
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
            if about.get("default", ...) is None and issubclass(cls, Record):  # such a field is omitted, never null
                del about["default"]
                about |= about.pop("anyOf", [{}])[0]


def _descendants(cls: type) -> Iterable[type]:
    """Classes of the vocabulary only; other libraries' structs are not described."""
    children: list[type] = cls.__subclasses__()
    for child in children:
        if child.__module__.startswith(("fabstir_client.api.", "fabstird.rpc")):
            yield child
        yield from _descendants(child)


def _events() -> Json:
    """The closed union of events: a schema for each type, and the schema that combines them."""
    cases: Json = {}
    for name, data in EVENT_DATA.items():
        cases[f"{data.__name__}Event"] = {
            "title": name,
            "description": describe.text(data),
            "type": "object",
            "properties": {
                "subscription": {"type": "string", "description": "its subscription; in notifications only"},
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
    """Messages on a connection that are not answers: the method, and its ``params``."""
    about = {
        "event": ("An entry of the event log", "Event"),
        "lagged": (describe.text(LaggedNotice), "LaggedNotice"),
        "heartbeat": (describe.text(Heartbeat), "Heartbeat"),
        **{notice.METHOD: (describe.text(notice), notice.__name__) for notice in NOTICES},
    }
    return {
        name: {
            "summary": summary,
            "params": {"$ref": _REF.format(name=schema)},
            "example": examples()["notifications"][name],
        }
        for name, (summary, schema) in about.items()
    }
