"""Vocabulary of the page at ``/ui``: the code that opens it, and data that no other method returns."""

from __future__ import annotations

from typing import Literal

from fabstir_client.api.access import Access
from fabstir_client.api.types import Params, Record

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
DialSource = Literal["bootstrap", "kept", "relay"]
DialState = Literal["due", "dialling", "waiting", "resting", "connected"]


class UiCodeParams(Params, frozen=True):
    access: Access = "read"  # of the token that the code is exchanged for; at most the caller's own level


class UiCode(Record, frozen=True):
    """A code that opens the page once."""

    code: str  # exchanged for a token by POST /ui/token
    url: str  # of the page, with the code in its fragment
    access: Access  # of the token that it is exchanged for
    expires: int  # ms since the Unix epoch: 30 s from now


class DialRecord(Record, frozen=True):
    """An address that the node tries to stay connected to, and the state of its dial cycle."""

    address: str
    source: DialSource  # why it is dialled
    state: DialState
    attempts: int  # number of dials begun in this cycle
    peer_id: str | None = None  # left out if the address does not name its peer and was never connected
    next_dial: int | None = None  # ms since the Unix epoch; left out if none is due
    last_error: str | None = None  # of the last dial, unless it has connected since


class LogTailParams(Params, frozen=True):
    after: int | None = None  # only lines after this one; without it, the newest
    level: LogLevel = "debug"  # only lines of this level and above
    limit: int | None = None  # number of lines at most, 1 to 1000; 200 if left out


class LogLine(Record, frozen=True):
    """One line of the daemon's log."""

    seq: int  # number of the line; rises by one
    level: LogLevel  # its level
    text: str  # the line, as JSON


class LogTail(Record, frozen=True):
    """Lines of the log, oldest first."""

    head: int  # number of the newest line
    lines: list[LogLine]  # the requested lines
    missed: int  # number of lines after `after` that are no longer kept
