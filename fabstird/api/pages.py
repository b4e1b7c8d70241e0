"""The rarely used endpoints as a Quart application: metrics, the OpenRPC document, health, and the page with its files.
`http` imports it at the first request for one of them."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from fabstir_client.api.errors import Forbidden
from fabstird.api import health, ui
from fabstird.api.guard import caller
from fabstird.metrics.prometheus import exposition
from fabstird.rpc.access import admit
from fabstird.rpc.methods.table import OPENRPC
from fabstird.rpc.services import Services

MAX_BODY = 4096  # bytes; enough for a code, the only body sent here. It is read before any token is checked


def make_app(services: Services) -> QuartTrio:
    app = QuartTrio("fabstird", static_folder=None)
    api = services.config.api
    app.config.update(MAX_CONTENT_LENGTH=min(MAX_BODY, api.max_request_bytes), BODY_TIMEOUT=api.body_timeout / 1000)
    render = exposition(services.counters, services.gauges)

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response:
        return Response(f"{error.code} {error.name}\n".encode(), status=error.code, content_type="text/plain")

    @app.errorhandler(Forbidden)
    async def forbidden(error: Forbidden) -> Response:
        return Response(f"{error}\n".encode(), status=403, content_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        admit("metrics", "read", caller("http", request.scope))
        async with services.heavy:
            text = render()
        return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openrpc.json")
    async def openrpc() -> Response:
        admit("rpc.discover", "read", caller("http", request.scope))
        return Response(OPENRPC.file, content_type="application/json")

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json(*health.healthy(services))

    @app.get("/readyz")
    async def readyz() -> Response:
        return _json(*health.ready(services))

    _add_page(app, services)
    return app


def _add_page(app: QuartTrio, services: Services) -> None:
    """Serve the page and its files; 404 for all of them where ``[api] ui`` is false."""
    files = ui.read_files() if services.config.api.ui else {}

    @app.get("/ui")
    @app.get("/ui/<name>")
    async def page(name: str = "index.html") -> Response:
        found = files.get(name)
        if found is None:
            return _no_page()
        body, kind = found
        policy = ui.POLICY.format(host=request.host)  # an allowed host: the guard has checked it
        return Response(body, content_type=kind, headers={**ui.HEADERS, "content-security-policy": policy})

    @app.post("/ui/token")
    async def token() -> Response:
        if not files:
            return _no_page()
        body = await request.get_data()
        assert isinstance(body, bytes), "as_text is not set"
        status, answer = await ui.token(services, body)
        return Response(answer, status=status, content_type="application/json", headers=ui.HEADERS)


def _no_page() -> Response:
    return Response(b"404 Not Found\n", status=404, content_type="text/plain")


def _json(status: int, content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), status=status, content_type="application/json")
