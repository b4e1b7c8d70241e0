"""Methods for the page at ``/ui``, which other callers may use too."""

from __future__ import annotations

import time
from typing import cast

from fabstir_client.api.errors import FeatureDisabled, Forbidden, InvalidParams
from fabstir_client.api.types import NoParams
from fabstir_client.api.ui import DialRecord, LogLevel, LogLine, LogTail, LogTailParams, UiCode, UiCodeParams
from fabstird.log import logger as log
from fabstird.rpc.access import RANK
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.ui_codes import LIFETIME

DEFAULT_LINES = 200
MAX_LINES = 1000
LEVELS = ("debug", "info", "warning", "error", "critical")


def code(call: Call, params: UiCodeParams) -> UiCode:
    """On the IPC socket only. The code can be used once, within 30 s. The page exchanges it for a token with the given
    access, which expires after 12 hours."""
    services, grant = call.services, call.caller.grant
    if call.caller.transport != "ipc":
        raise Forbidden(
            "ui.code is answered on the IPC socket only: run `fabstir ui` on the daemon's machine",
            method="ui.code",
            needed="read",
            granted=grant.access,
        )
    if not services.config.api.ui:
        raise FeatureDisabled("the page is switched off: api.ui is false", configKey="api.ui")
    if (url := page_url(services.http)) is None:
        raise FeatureDisabled("the page needs HTTP on a TCP port: set api.http", configKey="api.http")
    if RANK[params.access] > RANK[grant.access]:
        raise Forbidden(
            f"a page with {params.access} access needs a caller with that access; {grant.origin} grants {grant.access}",
            method="ui.code",
            needed=params.access,
            granted=grant.access,
        )
    issued = services.ui_codes.issue(params.access, grant.origin)
    expires = int((time.time() + LIFETIME) * 1000)
    return UiCode(code=issued.text, url=f"{url}#code={issued.text}", access=params.access, expires=expires)


def page_url(http: str | None) -> str | None:
    """Where a browser on this machine finds the page; None where HTTP is off or on a Unix socket."""
    if http is None or http.startswith("unix:"):
        return None
    host, _, port = http.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{local}:{port}/ui"


def dials(call: Call, _: NoParams) -> list[DialRecord]:
    """Bootstrap nodes, kept addresses and relays: for each, the state of its dial cycle, when the next dial is due, and
    why the last one failed. Empty while the node is stopped."""
    node = call.services.node
    return node.run().commands.dials() if node.state == "started" else []


def log_tail(_: Call, params: LogTailParams) -> LogTail:
    """The newest lines of the daemon's log; the last 1,000 are kept."""
    limit = DEFAULT_LINES if params.limit is None else params.limit
    if not 1 <= limit <= MAX_LINES:
        raise InvalidParams(f"Invalid params: limit: must be 1 to {MAX_LINES}, not {limit}", param="limit")
    wanted = frozenset(LEVELS[LEVELS.index(params.level) :])
    head, lines, missed = log.memory.read(params.after, limit, wanted)
    return LogTail(
        head=head, lines=[LogLine(seq, cast("LogLevel", level), text) for seq, level, text in lines], missed=missed
    )


METHODS = [
    Method("ui.code", UiCodeParams, UiCode, "A single-use code that opens the page at /ui", code,
           errors=(FeatureDisabled,)),
    Method("dials", NoParams, list[DialRecord], "Addresses that the node dials, and the state of each", dials),
    Method("log.tail", LogTailParams, LogTail, "The newest lines of the daemon's log", log_tail, access="admin"),
]  # fmt: skip
