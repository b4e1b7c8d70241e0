"""What ``data`` of an error holds, as structs: `ERROR_DATA` has one for each symbolic code.

The daemon raises the errors of `fabstir_client.errors` with these details as keywords; the OpenRPC document shows them,
and the tests hold every error of a real daemon to them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fabstir_client.api.access import Access
from fabstir_client.api.streams import StreamReason
from fabstir_client.api.types import NodeState, Record, words

RequestReason = Annotated[str, words("protocol", "stream")]


class ErrorData(Record, frozen=True, kw_only=True):
    """Of every error."""

    code: str  # the symbolic code, which never changes; the message is for people, and may
    retryable: bool  # whether the same call may succeed later without being changed


class MethodNotFoundData(ErrorData, frozen=True, kw_only=True):
    method: str | None = None  # that was asked for; left out where it exists, but not on this transport


class InvalidParamsData(ErrorData, frozen=True, kw_only=True):
    param: str | None = None  # the parameter that is wrong; left out where it is their number
    mistakes: list[str] | None = None  # one line a mistake, where a parameter can have several
    head: int | None = None  # the newest event, where `after` lies beyond it


class InternalErrorData(ErrorData, frozen=True, kw_only=True):
    log_id: str  # finds the whole of it in the daemon's log


class NodeNotRunningData(ErrorData, frozen=True, kw_only=True):
    state: NodeState  # of the node


class TimeoutData(ErrorData, frozen=True, kw_only=True):
    timeout: int  # the deadline that passed, ms
    peer_id: str | None = None  # whom it was about


class LimitData(ErrorData, frozen=True, kw_only=True):
    """Of an error that names a limit."""

    limit: int  # the most that is allowed
    current: int  # how much there is, or would have been
    config_key: str | None  # the key of the configuration that sets the limit; null where none does
    peer_id: str | None = None  # whose message it was


class PeerNotFoundData(ErrorData, frozen=True, kw_only=True):
    peer_id: str


class DialFailedData(ErrorData, frozen=True, kw_only=True):
    peer_id: str
    errors: dict[str, str]  # by address that was tried: the error in words


class InvalidStateData(ErrorData, frozen=True, kw_only=True):
    peer_id: str | None = None  # whom it was about
    protocol: str | None = None  # what it was about
    reason: RequestReason | None = None  # "protocol" where the peer does not speak it, "stream" where that broke
    request_id: str | None = None  # a peer's request that no longer waits
    tunnel_id: str | None = None  # a tunnel that is not there
    stream_id: str | None = None  # a stream that does not exist, or no longer waits
    saved: bool | None = None  # false where the change is in effect, but could not be written to the disk


class ForbiddenData(ErrorData, frozen=True, kw_only=True):
    method: str  # that was refused
    needed: Access  # the level that it needs
    granted: Literal["none", "read", "write", "admin"]  # what the caller has; none where a token has ended
    config_key: str | None = None  # the key of the configuration that would allow it, where one does
    methods: list[str] | None = None  # all that the caller's token is for, where that is what stands in the way
    protocols: list[str] | None = None  # patterns that it is for, where they stand in the way
    peers: list[str] | None = None  # ids of the peers that it is for, where they stand in the way


class FeatureDisabledData(ErrorData, frozen=True, kw_only=True):
    config_key: str  # the key of the configuration that enables it


class ListenFailedData(ErrorData, frozen=True, kw_only=True):
    address: str  # that could not be listened on
    reason: str  # in words


class StreamFailedData(ErrorData, frozen=True, kw_only=True):
    peer_id: str
    protocol: str  # that was asked for; several are joined by a comma
    reason: StreamReason  # how it failed


ERROR_DATA: dict[str, type[ErrorData]] = {
    "METHOD_NOT_FOUND": MethodNotFoundData,
    "INVALID_PARAMS": InvalidParamsData,
    "INTERNAL_ERROR": InternalErrorData,
    "NODE_NOT_RUNNING": NodeNotRunningData,
    "TIMEOUT": TimeoutData,
    "TOO_LARGE": LimitData,
    "PEER_NOT_FOUND": PeerNotFoundData,
    "LIMIT_EXCEEDED": LimitData,
    "DIAL_FAILED": DialFailedData,
    "INVALID_STATE": InvalidStateData,
    "FORBIDDEN": ForbiddenData,
    "FEATURE_DISABLED": FeatureDisabledData,
    "LISTEN_FAILED": ListenFailedData,
    "STREAM_FAILED": StreamFailedData,
}  # any other code has an `ErrorData` alone
