"""Turns a new connection into a stream, without I/O: one line each way (IPC), or an HTTP upgrade."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec

from fabstir_client._core.discovery import Endpoint
from fabstir_client._core.protocol import Call, Pending, Session
from fabstir_client.api.errors import BadAnswer, ConnectionLost, FabstirError, Forbidden, from_error_object
from fabstir_client.api.streams import OpenedStream, OpenParams, StreamIdParams

MAX_HEAD = 64 * 1024  # bytes of an answer; far above any


class Opening(Protocol):
    """What is sent and received on a fresh connection before it is a stream."""

    def hello(self) -> bytes:
        """The bytes to send."""

    def feed(self, data: bytes) -> tuple[OpenedStream, bytes] | None:
        """Process received bytes (empty at the end). Once the answer is complete, returns its content and the first
        bytes of the stream. Raises the daemon's error, `ConnectionLost`, `BadAnswer`."""


def opening(endpoint: Endpoint, call: Call[OpenedStream]) -> Opening:
    """``call`` is of ``stream.open`` or ``stream.accept``."""
    return _Line(call) if endpoint.prefix is None else _Upgrade(endpoint, call)


class _Line:
    def __init__(self, call: Call[OpenedStream]) -> None:
        self._session: Session[None] = Session()
        self._call = call
        self._pending, self._request = self._session.begin(call, None)
        self._buffer = bytearray()

    def hello(self) -> bytes:
        return self._request + b"\n"

    def feed(self, data: bytes) -> tuple[OpenedStream, bytes] | None:
        if not data:
            raise ConnectionLost("the daemon closed the connection")
        self._buffer += data
        line, newline, rest = bytes(self._buffer).partition(b"\n")
        if not newline:
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer(f"the daemon answered {self._call.method} with a line of more than {MAX_HEAD} bytes")
            return None
        settled = self._session.receive(line)
        if not isinstance(settled, Pending):
            raise BadAnswer(f"the daemon did not answer {self._call.method}")
        return self._call.read(settled.take()), rest


class _Upgrade:
    """``GET /stream`` with ``Upgrade: fabstir-stream``: after the 101 both directions are raw bytes."""

    def __init__(self, endpoint: Endpoint, call: Call[OpenedStream]) -> None:
        self._endpoint = endpoint
        self._params = call.params
        self._buffer = bytearray()

    def hello(self) -> bytes:
        params = self._params
        if isinstance(params, StreamIdParams):
            query = [("streamId", params.stream_id)]
        else:
            assert isinstance(params, OpenParams)
            protocols = [params.protocol] if isinstance(params.protocol, str) else params.protocol
            query = [("peerId", params.peer_id), *(("protocol", protocol) for protocol in protocols)]
            if params.timeout is not None:
                query.append(("timeout", str(params.timeout)))
        host = "localhost" if self._endpoint.path is not None else self._endpoint.authority
        lines = [
            f"GET {self._endpoint.prefix or ''}/stream?{urlencode(query)} HTTP/1.1",
            f"Host: {host}",
            *([f"Authorization: Bearer {self._endpoint.token}"] if self._endpoint.token else []),
            "Connection: Upgrade",
            "Upgrade: fabstir-stream",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def feed(self, data: bytes) -> tuple[OpenedStream, bytes] | None:
        self._buffer += data
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            if not data:
                raise ConnectionLost(f"{self._endpoint} closed the connection")
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer(f"{self._endpoint} is no fabstird: its answer has no end")
            return None
        status, fields = _head(head)
        if status == 101:
            return self._opened(fields), rest
        length = fields.get("content-length", "")
        if data and len(rest) < (int(length) if length.isdecimal() else MAX_HEAD) and len(rest) < MAX_HEAD:
            return None  # the rest of the refusal
        raise self._refusal(status, rest)

    def _opened(self, fields: dict[str, str]) -> OpenedStream:
        try:
            return OpenedStream(
                stream_id=fields["fabstir-stream-id"],
                peer_id=fields["fabstir-peer-id"],
                protocol=fields["fabstir-protocol"],
                address=fields.get("fabstir-address", ""),
                direction="inbound" if isinstance(self._params, StreamIdParams) else "outbound",
            )
        except KeyError as error:
            raise BadAnswer(f"{self._endpoint} is no fabstird: its answer lacks {error}") from error

    def _refusal(self, status: int, body: bytes) -> FabstirError:
        if status == 401:
            return Forbidden(f"{self._endpoint} refused the token ({self._endpoint.token_origin})", status=status)
        try:
            error: Any = msgspec.json.decode(body, type=dict[str, Any])["error"]
            return from_error_object(error)
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
            return BadAnswer(f"{self._endpoint} answered a stream with HTTP {status}")


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status, 0 where there is none, and the header fields by lower-case names."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    return status, {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
