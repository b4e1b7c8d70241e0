"""Answers, errors and notifications of a real daemon, held to the committed OpenRPC document.

The document lets objects grow, so that clients must not break when they do. Here it is closed: a field that is not
documented fails the test.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

DOCUMENT = Path(__file__).parents[2] / "docs" / "openrpc.json"
Json = dict[str, Any]


class NotAsDocumented(AssertionError):
    """The daemon said something that the OpenRPC document does not."""


@cache
def document() -> Json:
    loaded: Json = json.loads(DOCUMENT.read_text())
    return loaded


def hold_message(message: Any, method: str | None) -> None:
    """One JSON-RPC object that came from the daemon; ``method`` is the one that it answers, None where that is not
    known."""
    _need(isinstance(message, dict) and message.get("jsonrpc") == "2.0", message, "no JSON-RPC 2.0 object")
    if "method" in message:
        _need(message.keys() == {"jsonrpc", "method", "params"}, message, "no notification")
        known = document()["x-notifications"]
        _need(message["method"] in known, message, "an undocumented notification")
        alone = message["method"].startswith(("protocol.", "stream."))
        _need(alone or "subscription" in message["params"], message, "a notification without its subscription")
        _hold(known[message["method"]]["params"], message["params"], message["method"])
    elif "error" in message:
        _need(message.keys() == {"jsonrpc", "error", "id"}, message, "no answer")
        hold_error(message["error"], method)
    else:
        _need(message.keys() == {"jsonrpc", "result", "id"}, message, "no answer")
        if method is not None:
            hold_result(message["result"], method)


def hold_result(result: Any, method: str) -> None:
    _hold(_methods()[method]["result"]["schema"], result, f"result of {method}")


def hold_error(error: Any, method: str | None) -> None:
    """It has the form of its code, and is one that the method declares."""
    _need(error.keys() == {"code", "message", "data"} and isinstance(error["message"], str), error, "no error object")
    code = error["data"].get("code")
    declared = document()["components"]["errors"].get(code)
    _need(declared is not None, error, "an undocumented error")
    _need(declared["code"] == error["code"], error, f"{code} has the code {declared['code']}")
    _hold(declared["data"], error["data"], f"data of {code}")
    if method in _methods() and code != "INVALID_REQUEST":  # of a text that is no request, whatever method it names
        may = {reference["$ref"].rpartition("/")[2] for reference in _methods()[method]["errors"]}
        _need(code in may, error, f"{method} does not declare {code}: add it to `errors=` on its line of the table")


class Conversation:
    """What goes over one connection: which answer is for which method."""

    def __init__(self) -> None:
        self._asked: dict[Any, str | None] = {}

    def sent(self, text: bytes | str) -> None:
        """Take note of the calls in a text; one that is no JSON has none."""
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return
        for call in parsed if isinstance(parsed, list) else [parsed]:
            if isinstance(call, dict) and isinstance(call.get("id"), str | int):
                # Two calls of one id: nobody knows which answer is whose
                method = call.get("method") if call["id"] not in self._asked else None
                self._asked[call["id"]] = method if isinstance(method, str) and method in _methods() else None

    def received(self, text: bytes | str) -> None:
        parsed = json.loads(text)
        for message in parsed if isinstance(parsed, list) else [parsed]:
            identity = message.get("id") if isinstance(message, dict) else None
            method = self._asked.pop(identity, None) if isinstance(identity, str | int) else None
            hold_message(message, method)


@cache
def _methods() -> Json:
    return {method["name"]: method for method in document()["methods"]}


def _need(condition: bool, found: Any, what: str) -> None:
    if not condition:
        raise NotAsDocumented(f"{what}: {found!r}")


def _hold(schema: Json, value: Any, what: str) -> None:
    try:
        _validator(json.dumps(schema))(value)
    except fastjsonschema.JsonSchemaValueException as error:
        raise NotAsDocumented(f"{what}: {error.message}: {value!r}") from error


@cache
def _validator(schema: str) -> Any:
    whole = {"$schema": "http://json-schema.org/draft-07/schema#", "allOf": [json.loads(schema)]}
    return fastjsonschema.compile({**whole, "components": {"schemas": _closed()}}, use_default=False)


@cache
def _closed() -> Json:
    """The schemas, in which an object has no other fields than those that are listed."""

    def close(schema: Any) -> None:
        if isinstance(schema, dict):
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
            for value in schema.values():
                close(value)
        elif isinstance(schema, list):
            for value in schema:
                close(value)

    schemas: Json = copy.deepcopy(document()["components"]["schemas"])
    close(schemas)
    return schemas
