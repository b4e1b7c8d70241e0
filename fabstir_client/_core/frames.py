"""Splits a byte stream into messages, without I/O: lines (IPC) or WebSocket messages (HTTP).

Both framings have the same interface, so links do not care which one they use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fabstir_client.api.errors import BadAnswer, ConnectionLost, FabstirError, Forbidden, LimitExceeded, TooLarge

if TYPE_CHECKING:
    from fabstir_client._core.discovery import Endpoint

MAX_MESSAGE = 64 * 1024 * 1024  # bytes; far above any answer, and a bound on what a stranger can make us hold


class Framing(Protocol):
    """A framing. ``ready`` is whether messages may be sent."""

    ready: bool

    def hello(self) -> bytes:
        """What to send first."""

    def frame(self, message: bytes) -> bytes:
        """``message`` as bytes for the wire."""

    def feed(self, data: bytes) -> list[bytes]:
        """Process received bytes (empty at the end of the stream); returns the messages that they complete.

        Raises `ConnectionLost` where the other side has ended the connection, or a more specific `FabstirError`.
        """

    def outgoing(self) -> bytes:
        """Bytes that the framing itself must send after `feed`."""

    def goodbye(self) -> bytes:
        """What to send last."""


class Lines:
    """One JSON text a line."""

    ready = True

    def __init__(self) -> None:
        self._buffer = bytearray()

    def hello(self) -> bytes:
        return b""

    def frame(self, message: bytes) -> bytes:
        return message + b"\n"

    def feed(self, data: bytes) -> list[bytes]:
        if not data:
            raise ConnectionLost("the daemon closed the connection")
        # Only new bytes are searched for the end of the line, so a long line is not searched twice
        searched = len(self._buffer)
        self._buffer += data
        end = self._buffer.rfind(b"\n", searched)
        if end < 0:
            if len(self._buffer) > MAX_MESSAGE:
                raise BadAnswer(f"the daemon sent a line of more than {MAX_MESSAGE} bytes")
            return []
        lines = bytes(self._buffer[:end]).split(b"\n")
        del self._buffer[: end + 1]
        return [line for line in lines if line.strip()]

    def outgoing(self) -> bytes:
        return b""

    def goodbye(self) -> bytes:
        return b""


class WebSocket:
    """JSON texts as WebSocket messages, on the sans-I/O part of the ``websockets`` library.

    That part needs no task or thread, so it serves trio, asyncio and blocking sockets alike. Compression is not
    offered, since on loopback it only costs.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        from websockets.client import ClientProtocol
        from websockets.uri import parse_uri

        self.ready = False
        self._endpoint = endpoint
        self._protocol = ClientProtocol(parse_uri(endpoint.websocket_uri), max_size=MAX_MESSAGE)
        self._parts: list[bytes] = []

    def hello(self) -> bytes:
        request = self._protocol.connect()
        if self._endpoint.token is not None:
            request.headers["Authorization"] = f"Bearer {self._endpoint.token}"
        self._protocol.send_request(request)
        return self.outgoing()

    def frame(self, message: bytes) -> bytes:
        from websockets.exceptions import InvalidState

        try:
            self._protocol.send_text(message)
        except InvalidState as error:
            raise ConnectionLost("the connection to the daemon is closing") from error
        return self.outgoing()

    def feed(self, data: bytes) -> list[bytes]:
        from websockets.frames import Frame, Opcode

        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        messages: list[bytes] = []
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                # The answer to the opening handshake; a refusal also shows in handshake_exc.
                self.ready = self._protocol.handshake_exc is None
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(event.data))
                if event.fin:
                    messages.append(b"".join(self._parts))
                    self._parts.clear()
        if self._protocol.handshake_exc is not None:
            raise self._refusal(self._protocol.handshake_exc)
        # What arrived before the end still counts; the end is reported at the next, empty, feed
        if not messages and (not data or self._protocol.close_expected()):
            raise self._end()
        return messages

    def outgoing(self) -> bytes:
        return b"".join(self._protocol.data_to_send())

    def goodbye(self) -> bytes:
        from websockets.protocol import State

        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1000)
        return self.outgoing()

    def _end(self) -> FabstirError:
        received, failure = self._protocol.close_rcvd, self._protocol.parser_exc
        if received is None and (failure is None or isinstance(failure, EOFError)):
            return ConnectionLost("the daemon closed the connection")
        if received is None:
            return BadAnswer(f"{self._endpoint} does not speak WebSocket as it should: {failure}")
        if received.code == 1009:
            return TooLarge(f"the daemon refused the message as too large: {received.reason or 'no reason given'}")
        reason = f" ({received.reason})" if received.reason else ""
        return ConnectionLost(f"the daemon closed the connection with code {received.code}{reason}")

    def _refusal(self, error: Exception) -> FabstirError:
        from websockets.exceptions import InvalidStatus

        if not isinstance(error, InvalidStatus):
            if isinstance(error.__cause__, EOFError):
                return ConnectionLost(f"{self._endpoint} closed the connection during the handshake")
            return BadAnswer(f"{self._endpoint} is no fabstird: {error.__cause__ or error}")
        status = error.response.status_code
        body = bytes(error.response.body or b"")
        if status == 401:
            # For an expired or revoked token it says why
            why = body.decode("utf-8", "replace").strip()
            ended = f": {why}" if why.startswith("the token ") and len(why) < 200 and why.isprintable() else ""
            return Forbidden(
                f"{self._endpoint} refused the token ({self._endpoint.token_origin}){ended}", status=status
            )
        if status == 403:
            return Forbidden(
                f"{self._endpoint} refused the Host of the request; see [api] allowed_hosts", status=status
            )
        if status == 503 and (limit := _limit(body)) is not None:
            return limit
        if status >= 500:
            return ConnectionLost(f"{self._endpoint} answered the handshake with HTTP {status}")
        return BadAnswer(f"{self._endpoint} is no fabstird: it answered the handshake with HTTP {status}")


def _limit(body: bytes) -> LimitExceeded | None:
    """The limit named in the daemon's refusal; None where the body is something else, such as a proxy's."""
    try:
        error = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if error.get("code") != LimitExceeded.code or not isinstance(error.get("message"), str):
        return None
    names = ("limit", "current", "configKey")
    return LimitExceeded(error["message"], **{name: error[name] for name in names if name in error})
