"""Errors of the API: one tree under `FabstirError`, mapped to and from JSON-RPC codes (CONTRACT, section 4).

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
    code, rpc_code = "PARSE_ERROR", -32700


class InvalidRequest(RpcError):
    code, rpc_code = "INVALID_REQUEST", -32600


class MethodNotFound(RpcError):
    code, rpc_code = "METHOD_NOT_FOUND", -32601


class InvalidParams(RpcError):
    code, rpc_code = "INVALID_PARAMS", -32602


class InternalError(RpcError):
    """A defect inside the daemon; ``data["logId"]`` finds the whole of it in the daemon's log."""

    code, rpc_code = "INTERNAL_ERROR", -32603


class NodeNotRunning(RpcError):
    code, rpc_code, retryable = "NODE_NOT_RUNNING", -32001, True


class DeadlineExceeded(RpcError):
    """The call's own deadline passed."""

    code, rpc_code, retryable = "TIMEOUT", -32002, True


class TooLarge(RpcError):
    """A request, batch or answer exceeds a limit; ``data`` holds ``limit``, ``current`` and ``configKey``."""

    code, rpc_code = "TOO_LARGE", -32003


class PeerNotFound(RpcError):
    code, rpc_code = "PEER_NOT_FOUND", -32004


class LimitExceeded(RpcError):
    code, rpc_code, retryable = "LIMIT_EXCEEDED", -32005, True


class DialFailed(RpcError):
    """``data["errors"]`` maps each address that was tried to its error in words."""

    code, rpc_code, retryable = "DIAL_FAILED", -32006, True


class InvalidState(RpcError):
    code, rpc_code = "INVALID_STATE", -32007


class Forbidden(RpcError):
    code, rpc_code = "FORBIDDEN", -32008


class FeatureDisabled(RpcError):
    """``data["configKey"]`` names the key that enables it."""

    code, rpc_code = "FEATURE_DISABLED", -32009


class ListenFailed(RpcError):
    """``data`` holds ``address`` and ``reason``."""

    code, rpc_code, retryable = "LISTEN_FAILED", -32010, True


class DaemonUnreachable(FabstirError):
    """No daemon was reached; the message says what was tried and what to run. Raised by the client only."""

    code, retryable = "DAEMON_UNREACHABLE", True


class ConnectionLost(FabstirError):
    """The connection to the daemon ended while a call was waiting for its answer. Raised by the client only."""

    code, retryable = "CONNECTION_LOST", True


class ClientTimeout(FabstirError):
    """The daemon did not answer within the client's own bound. Raised by the client only."""

    code, retryable = "CLIENT_TIMEOUT", True


class BadAnswer(FabstirError):
    """The daemon sent something that is not what the API promises. Raised by the client only."""

    code = "BAD_ANSWER"


class InvalidConfig(FabstirError, ValueError):
    """A setting of the client itself is wrong: an argument, or a variable of the environment; the message names it.
    Raised by the client only, before anything is sent."""

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
    cls = _BY_RPC_CODE.get(error.get("code", 0), RpcError)
    raised = cls(str(error.get("message", "unknown error")), **{str(k): v for k, v in data.items() if k != "message"})
    if cls is RpcError:
        raised.data.setdefault("rpcCode", error.get("code"))
        if isinstance(symbolic, str):
            raised.data.setdefault("symbolicCode", symbolic)
    if isinstance(retryable, bool):
        raised.retryable = retryable
    return raised
