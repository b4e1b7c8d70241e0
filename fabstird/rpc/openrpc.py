"""The OpenRPC document, made from the method table: the answer of ``fabstird openrpc``, ``GET /openrpc.json`` and
``rpc.discover`` (open-rpc.org, specification 1.3). Parameters, results and events come from `fabstir_client.types`."""

from __future__ import annotations

from typing import Any

import msgspec

from fabstir_client.errors import RpcError
from fabstir_client.types import EVENT_DATA
from fabstird import __version__
from fabstird.rpc.dispatch import Method

_REF = "#/components/schemas/{name}"


def document(methods: list[Method]) -> dict[str, Any]:
    """The document as plain values; `render` gives its bytes."""
    types = [method.params for method in methods] + [method.result for method in methods] + list(EVENT_DATA.values())
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    results = schemas[len(methods) : 2 * len(methods)]
    events = dict(zip(EVENT_DATA, schemas[2 * len(methods) :], strict=True))
    return {
        "openrpc": "1.3.2",
        "info": {
            "title": "fabstird",
            "version": __version__,
            "description": "Local P2P daemon on libp2p. Instants are ms since the Unix epoch, durations are ms.",
        },
        "methods": [
            {
                "name": method.name,
                "summary": method.summary,
                "x-access": method.needs,
                "paramStructure": "either",
                "params": _params(method),
                "result": {"name": "result", "schema": result},
                # Any method may answer with any of these; the client's `errors` says what each means.
                "errors": [{"$ref": f"#/components/errors/{error.code}"} for error in _ERRORS],
            }
            for method, result in zip(methods, results, strict=True)
        ],
        "components": {
            "schemas": components,
            "errors": {error.code: {"code": error.rpc_code, "message": error.code} for error in _ERRORS},
        },
        "x-events": {name: {"schema": schema} for name, schema in events.items()},
    }


def render(methods: list[Method]) -> bytes:
    """The same bytes wherever the document is asked for."""
    return msgspec.json.format(msgspec.json.encode(document(methods)), indent=2) + b"\n"


def _params(method: Method) -> list[dict[str, Any]]:
    fields = msgspec.structs.fields(method.params)
    schemas, _ = msgspec.json.schema_components([field.type for field in fields], ref_template=_REF)
    return [
        {"name": field.encode_name, "required": field.required, "schema": schema}
        for field, schema in zip(fields, schemas, strict=True)
    ]


_ERRORS = sorted(RpcError.__subclasses__(), key=lambda error: -error.rpc_code)
