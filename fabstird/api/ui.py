"""What `pages` serves at ``/ui``: static files without secrets, and ``POST /ui/token``, which exchanges a code for a
token.

Anybody with an allowed Host gets the files. All data on the page comes over ``/ws``, which needs the token.
"""

from __future__ import annotations

import secrets
from importlib.resources import files

import msgspec

from fabstir_client.api.errors import FabstirError
from fabstird.api.errors import as_json
from fabstird.log.logger import get_logger
from fabstird.rpc.services import Services

log = get_logger("api.ui")

PATHS = ("/ui", "/ui/style.css", "/ui/app.js", "/ui/client.js", "/ui/views.js", "/ui/token")  # need no token
LIFETIME = 12 * 3600 * 1000  # ms, of a token
TOKEN_NAME = "ui-"
_KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "html": "text/html; charset=utf-8"}
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
# The page loads only its own files and talks only to its own daemon. It cannot be framed, and its forms lead nowhere.
# Some browsers do not count a WebSocket of the same host as 'self'.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Asked(msgspec.Struct):
    code: str


async def token(services: Services, body: bytes) -> tuple[int, bytes]:
    """Exchange a code for a token; returns the status and the JSON body."""
    try:
        given = msgspec.json.decode(body, type=_Asked).code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 400, msgspec.json.encode({"error": 'the body must be {"code": "…"}'})
    codes = services.ui_codes
    code = codes.find(given)
    if code is None or not codes.use(code):
        log.info("a code for the page was refused")
        words = "this code has been used or has expired; run `fabstir ui` again"
        return 403, msgspec.json.encode({"error": words})
    try:
        made = await services.tokens.create(f"{TOKEN_NAME}{secrets.token_hex(4)}", code.access, None, LIFETIME)
    except FabstirError as error:
        codes.restore(code)
        return 503, as_json(error).encode()
    log.info("the page was opened", token=made.name, access=made.access, issuer=code.issuer)
    shown = {"token": made.token, "name": made.name, "access": made.access, "expires": made.expires}
    return 200, msgspec.json.encode(shown)


def read_files() -> dict[str, tuple[bytes, str]]:
    """The page's files by name: content and media type."""
    folder = files("fabstird.api") / "page"
    return {
        file.name: (file.read_bytes(), _KINDS[file.name.rpartition(".")[2]])
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _KINDS
    }
