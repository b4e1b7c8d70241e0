"""Errors of the API: one tree under `FabstirError`, mapped to and from JSON-RPC codes.

The daemon raises these and its dispatcher turns them into error objects; the client turns error objects back into them.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FabstirError(Exception):
    """Root of every error. ``code`` is the symbolic code, ``data`` the details, ``retryable`` whether the same call may
    succeed later without being changed."""

    code: ClassVar[str] = "ERROR"
    rpc_code: ClassVar[int] = -32000
    retryable: bool = False

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, Any] = data

    def to_error_object(self) -> dict[str, Any]:
        """The JSON-RPC error object: ``{code, message, data: {code, retryable, …}}``."""
        data = {"code": self.code, "retryable": self.retryable, **self.data}
        return {"code": self.rpc_code, "message": self.message, "data": data}


class RpcError(FabstirError):
    """The daemon answered with an error object."""


class ParseError(RpcError):
    """The text is not JSON. The answer has the id null."""

    code, rpc_code = "PARSE_ERROR", -32700


class InvalidRequest(RpcError):
    """JSON, but not a JSON-RPC 2.0 request. The answer has the id null."""

    code, rpc_code = "INVALID_REQUEST", -32600


class MethodNotFound(RpcError):
    """There is no such method, or it is not available on this transport."""

    code, rpc_code = "METHOD_NOT_FOUND", -32601


class InvalidParams(RpcError):
    """A parameter is missing, unknown, of a wrong type or has a wrong value; the message names it."""

    code, rpc_code = "INVALID_PARAMS", -32602


class InternalError(RpcError):
    """A defect in the daemon; ``data["logId"]`` identifies the entry with the details in the daemon's log."""

    code, rpc_code = "INTERNAL_ERROR", -32603


class NodeNotRunning(RpcError):
    """The method needs a started node; call ``start``."""

    code, rpc_code, retryable = "NODE_NOT_RUNNING", -32001, True


class DeadlineExceeded(RpcError):
    """The call's deadline has passed."""

    code, rpc_code, retryable = "TIMEOUT", -32002, True


class TooLarge(RpcError):
    """A request, a batch or an answer exceeds a limit."""

    code, rpc_code = "TOO_LARGE", -32003


class PeerNotFound(RpcError):
    """The peer is not connected, and no address of it is known."""

    code, rpc_code = "PEER_NOT_FOUND", -32004


class LimitExceeded(RpcError):
    """A limit has been reached; try again later, or raise the limit."""

    code, rpc_code, retryable = "LIMIT_EXCEEDED", -32005, True


class DialFailed(RpcError):
    """The peer could not be connected to at any of its addresses."""

    code, rpc_code, retryable = "DIAL_FAILED", -32006, True


class InvalidState(RpcError):
    """The call is not possible in the current state; the message says what to do first."""

    code, rpc_code = "INVALID_STATE", -32007


class Forbidden(RpcError):
    """The caller may not call this."""

    code, rpc_code = "FORBIDDEN", -32008


class FeatureDisabled(RpcError):
    """The feature is disabled in the configuration."""

    code, rpc_code = "FEATURE_DISABLED", -32009


class ListenFailed(RpcError):
    """The node or a tunnel cannot listen on an address; correct the cause and try again."""

    code, rpc_code, retryable = "LISTEN_FAILED", -32010, True


class StreamFailed(RpcError):
    """A stream to a peer could not be opened, or broke. ``data["reason"]`` says why: the peer does not speak the
    protocol (unsupported), refused it (refused), reset the stream (reset), did not answer in time (timeout),
    disconnected (gone), or has too many streams (busy)."""

    code, rpc_code = "STREAM_FAILED", -32011


class DaemonUnreachable(FabstirError):
    """No daemon could be reached; the message says what was tried and what to run. Raised by the client only."""

    code, retryable = "DAEMON_UNREACHABLE", True


class ConnectionLost(FabstirError):
    """The connection to the daemon ended while a call was waiting for its answer. Raised by the client only."""

    code, retryable = "CONNECTION_LOST", True


class ClientTimeout(FabstirError):
    """The daemon did not answer within the client's own timeout. Raised by the client only."""

    code, retryable = "CLIENT_TIMEOUT", True


class StreamReset(FabstirError):
    """A stream did not end well; ``data["outcome"]`` says how, in the words of ``stream.closed``. Raised by the client
    only."""

    code = "STREAM_RESET"


class BadAnswer(FabstirError):
    """The daemon sent something that the API does not allow. Raised by the client only."""

    code = "BAD_ANSWER"


class InvalidConfig(FabstirError, ValueError):
    """An invalid setting of the client itself: an argument or an environment variable, which the message names. Raised
    by the client only, before anything is sent."""

    code = "INVALID_CONFIG"


def _leaves(root: type[RpcError]) -> dict[int, type[RpcError]]:
    return {cls.rpc_code: cls for cls in root.__subclasses__()}


_BY_RPC_CODE = _leaves(RpcError)


def from_error_object(error: dict[str, Any]) -> RpcError:
    """The exception for a JSON-RPC error object; an unknown code gives a plain `RpcError` that carries it."""
    details = error.get("data")
    data = dict(details) if isinstance(details, dict) else {}
    symbolic = data.pop("code", None)
    retryable = data.pop("retryable", None)
    code = error.get("code")
    cls = _BY_RPC_CODE.get(code, RpcError) if isinstance(code, int) else RpcError
    raised = cls(str(error.get("message", "unknown error")), **{str(k): v for k, v in data.items() if k != "message"})
    if cls is RpcError:
        raised.data.setdefault("rpcCode", error.get("code"))
        if isinstance(symbolic, str):
            raised.data.setdefault("symbolicCode", symbolic)
    if isinstance(retryable, bool):
        raised.retryable = retryable
    return raised
