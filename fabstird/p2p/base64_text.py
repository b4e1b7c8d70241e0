"""Bytes as the API encodes them: standard base64."""

from __future__ import annotations

import base64
import binascii

from fabstir_client.api.errors import InvalidParams


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_base64(text: str, param: str = "data") -> bytes:
    """Decode base64. Raises `InvalidParams` naming the parameter ``param``."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParams(f"{param}: is not standard base64: {error}", param=param) from error
