"""The ``data`` of errors, as structs: `ERROR_DATA` has one for each symbolic code.

The daemon raises the errors of `fabstir_client.api.errors` with these details as keywords. The OpenRPC document
describes them, and the tests check every error of a real daemon against them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fabstir_client.api.access import Access
from fabstir_client.api.streams import StreamReason
from fabstir_client.api.types import NodeState, Record, words

RequestReason = Annotated[str, words("protocol", "stream")]


class ErrorData(Record, frozen=True, kw_only=True):
    """The ``data`` of every error."""

    code: str  # the symbolic code, which never changes; the message is for people, and may change
    retryable: bool  # whether the same call may succeed later without being changed


class MethodNotFoundData(ErrorData, frozen=True, kw_only=True):
    method: str | None = None  # the method called; left out if it exists, but not on this transport


class InvalidParamsData(ErrorData, frozen=True, kw_only=True):
    param: str | None = None  # the invalid parameter; left out if the number of parameters is wrong
    mistakes: list[str] | None = None  # one line for each mistake, if a parameter can have several
    head: int | None = None  # number of the newest event, if `after` is beyond it


class InternalErrorData(ErrorData, frozen=True, kw_only=True):
    log_id: str  # identifies the entry with the details in the daemon's log


class NodeNotRunningData(ErrorData, frozen=True, kw_only=True):
    state: NodeState  # of the node


class TimeoutData(ErrorData, frozen=True, kw_only=True):
    timeout: int  # the deadline that passed, ms
    peer_id: str | None = None  # the peer that the call was about


class LimitData(ErrorData, frozen=True, kw_only=True):
    """The ``data`` of an error that is caused by a limit."""

    limit: int  # the most that is allowed
    current: int  # how much there is, or would have been
    config_key: str | None  # the configuration key that sets the limit; null if it cannot be configured
    peer_id: str | None = None  # the peer whose message was too large


class PeerNotFoundData(ErrorData, frozen=True, kw_only=True):
    peer_id: str


class DialFailedData(ErrorData, frozen=True, kw_only=True):
    peer_id: str
    errors: dict[str, str]  # the error in words, by the address that was tried


class InvalidStateData(ErrorData, frozen=True, kw_only=True):
    peer_id: str | None = None  # the peer that the call was about
    protocol: str | None = None  # the protocol that the call was about
    reason: RequestReason | None = None  # "protocol": the peer does not speak it; "stream": the stream broke
    request_id: str | None = None  # a peer's request that is no longer waiting
    tunnel_id: str | None = None  # a tunnel that does not exist
    stream_id: str | None = None  # a stream that does not exist, or is no longer waiting
    saved: bool | None = None  # false if the change is in effect, but could not be written to disk


class ForbiddenData(ErrorData, frozen=True, kw_only=True):
    method: str  # the method that was refused
    needed: Access  # the access level that it needs
    granted: Literal["none", "read", "write", "admin"]  # the caller's level; none if its token has ended
    config_key: str | None = None  # the configuration key that would allow it, if there is one
    methods: list[str] | None = None  # the methods that the caller's token allows, if they are the reason
    protocols: list[str] | None = None  # the protocol patterns that the token allows, if they are the reason
    peers: list[str] | None = None  # ids of the peers that the token allows, if they are the reason


class FeatureDisabledData(ErrorData, frozen=True, kw_only=True):
    config_key: str  # the configuration key that enables the feature


class ListenFailedData(ErrorData, frozen=True, kw_only=True):
    address: str  # the address that could not be listened on
    reason: str  # in words


class StreamFailedData(ErrorData, frozen=True, kw_only=True):
    peer_id: str
    protocol: str  # the requested protocols, separated by commas
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
}  # any other code has only `ErrorData`
