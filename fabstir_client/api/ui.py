"""Vocabulary of the page at ``/ui``: the code that opens it, and what it shows that no other method tells."""

from __future__ import annotations

from typing import Literal

from fabstir_client.api.access import Access
from fabstir_client.api.types import Params, Record

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
DialSource = Literal["bootstrap", "kept", "relay"]
DialState = Literal["due", "dialling", "waiting", "resting", "connected"]


class UiCodeParams(Params, frozen=True):
    access: Access = "read"  # of the token that the code is changed into; the caller's own level at most


class UiCode(Record, frozen=True):
    """A code that opens the page once."""

    code: str  # changed into a token by POST /ui/token
    url: str  # of the page, with the code behind its #
    access: Access  # of the token that it is changed into
    expires: int  # ms since the Unix epoch: 30 s from now


class DialRecord(Record, frozen=True):
    """An address that the node stays connected to, and where its cycle of dials stands."""

    address: str
    source: DialSource  # why it is dialled
    state: DialState
    attempts: int  # dials begun in this cycle
    peer_id: str | None = None  # where the address names its peer, or it has been connected
    next_dial: int | None = None  # ms since the Unix epoch; left out where none is due
    last_error: str | None = None  # of the last dial, unless it has connected since


class LogTailParams(Params, frozen=True):
    after: int | None = None  # only lines after this one; without it, the newest
    level: LogLevel = "debug"  # only lines of this level and those above it
    limit: int | None = None  # lines at most, 1 to 1000; 200 if left out


class LogLine(Record, frozen=True):
    """One line of the daemon's log."""

    seq: int  # rises by one a line
    level: LogLevel  # how serious it is
    text: str  # the line, as JSON


class LogTail(Record, frozen=True):
    """Lines of the log, oldest first."""

    head: int  # of the newest line
    lines: list[LogLine]  # that were asked for
    missed: int  # lines after `after` that are kept no longer
