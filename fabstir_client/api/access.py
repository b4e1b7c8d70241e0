"""Vocabulary of access: who may call what, tokens, and the audit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fabstir_client.api.errors import RpcError
from fabstir_client.api.types import Params, Record, words

Access = Literal["read", "write", "admin"]  # each includes those before it
CallOutcome = Annotated[
    str, words("ok", "unchanged", "CANCELLED", *(error.code for error in RpcError.__subclasses__()))
]


class AuditParams(Params, frozen=True):
    after: int | None = None  # only entries with a higher `seq`
    limit: int | None = None  # entries at most: the oldest after `after`, or the newest of all without it


class AuditEntry(Record, frozen=True, kw_only=True):
    """A call that changed something, or that was refused."""

    seq: int  # number of the entry; rises by one while the daemon runs
    time: int  # when the call ended, ms since the Unix epoch
    method: str  # the method called
    params: dict[str, Any]  # as the caller gave them, shortened; texts that may be private are replaced by their length
    # ok; unchanged: there was nothing to do; CANCELLED: the caller disconnected; otherwise the code of an error
    outcome: CallOutcome
    duration: float  # ms
    transport: Annotated[str, words("ipc", "http", "ws")]  # how the call arrived
    id: str | None = None  # the request's id, as JSON; left out for a notification
    uid: int | None = None  # user id of the calling process, over IPC
    pid: int | None = None  # process id of the caller, over IPC
    token: str | None = None  # name of the token, over HTTP and WebSocket
    remote: str | None = None  # address of the caller, over HTTP and WebSocket


class AuditResult(Record, frozen=True):
    head: int  # number of the newest entry
    entries: list[AuditEntry]  # oldest first
    missed: int  # entries after `after` that are no longer held; the log has them


class TokenCreateParams(Params, frozen=True):
    name: str  # 1 to 64 letters, digits and . _ -
    access: Access  # what it grants; each level includes those before it
    methods: list[str] | None = None  # the only methods that it may call; without it, all that `access` allows
    expires_in: int | None = None  # ms; without it, the token is valid until it is revoked
    # patterns of the protocols that it may handle, open and request, at most 64; * stands for any characters
    protocols: list[str] | None = None
    peers: list[str] | None = None  # ids of the peers that its calls may name, at most 64


class TokenNameParams(Params, frozen=True):
    name: str  # the token's name


class TokenRecord(Record, frozen=True, kw_only=True):
    """What is known of a token. The token itself is returned only when it is created."""

    name: str
    access: Access  # what it grants
    methods: list[str] | None = None  # the only methods that it may call; left out for all that `access` allows
    # patterns of the protocols that it may handle, open and request; left out if it may use all
    protocols: list[str] | None = None
    peers: list[str] | None = None  # ids of the peers that its calls may name; left out if they may name any
    created: int  # ms since the Unix epoch
    expires: int | None = None  # ms since the Unix epoch; left out if it is valid until it is revoked
    expired: bool = False  # whether it has expired
    last_used: int | None = None  # ms since the Unix epoch; left out if it has not been used since the daemon started


class TokenCreated(TokenRecord, frozen=True, kw_only=True):
    token: str  # the token itself, for the header "Authorization: Bearer …"; it is shown only once


class TokenRevoked(Record, frozen=True):
    name: str
    revoked: bool  # false if there was no such token
