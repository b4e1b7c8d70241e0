"""Errors that keep the API from being served, and limits of HTTP requests."""

from __future__ import annotations

import msgspec

from fabstir_client.api.errors import FabstirError, LimitExceeded, TooLarge
from fabstird.unix_socket import BindError as BindError


def as_json(error: FabstirError) -> str:
    """The body of an HTTP response that reports a limit: the ``data`` of the JSON-RPC error, and its message."""
    return msgspec.json.encode({"message": error.message, **error.to_error_object()["data"]}).decode()


def body_too_large(limit: int, current: int) -> TooLarge:
    """The error for a body over the limit. ``current`` is the declared length, or the bytes received so far."""
    words = f"a body of more than {limit} bytes"
    return TooLarge(words, limit=limit, current=current, configKey="api.max_request_bytes")


def too_slow(what: str, limit: int, key: str) -> LimitExceeded:
    """The error for ``what`` not arriving within ``limit`` ms."""
    words = f"{what} did not arrive within {limit} ms"
    return LimitExceeded(words, limit=limit, current=limit, configKey=f"api.{key}")
