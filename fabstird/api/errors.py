"""What keeps the API from being served, and what HTTP says of a limit."""

from __future__ import annotations

import msgspec

from fabstir_client.errors import FabstirError, LimitExceeded, TooLarge


class BindError(Exception):
    """An endpoint of the API cannot be bound; the message says which, why, and what to do."""


def as_json(error: FabstirError) -> str:
    """What HTTP answers where a limit refuses a request: the ``data`` of the JSON-RPC error, and its message."""
    return msgspec.json.encode({"message": error.message, **error.to_error_object()["data"]}).decode()


def body_too_large(limit: int, current: int) -> TooLarge:
    """``current`` is what was declared, or how much of it had come."""
    words = f"a body of more than {limit} bytes"
    return TooLarge(words, limit=limit, current=current, configKey="api.max_request_bytes")


def too_slow(what: str, limit: int, key: str) -> LimitExceeded:
    """``what`` did not arrive within ``limit`` ms."""
    words = f"{what} did not arrive within {limit} ms"
    return LimitExceeded(words, limit=limit, current=limit, configKey=f"api.{key}")
