"""Valid names of protocols. It is a module of its own because the API needs it before anything of the node is
imported."""

from __future__ import annotations

from fabstir_client.api.errors import InvalidParams

MAX_NAME = 128  # characters of a protocol


def checked_protocol(name: str) -> None:
    """Check a name. Raises `InvalidParams`."""
    if not name.startswith("/") or len(name) > MAX_NAME or not name.isascii() or not name.isprintable() or " " in name:
        raise InvalidParams(
            f'protocol: must begin with "/" and be printable ASCII of {MAX_NAME} characters at most, such as '
            f'"/fabstir/job/1.0.0", not "{name[:MAX_NAME]}"',
            param="protocol",
        )
