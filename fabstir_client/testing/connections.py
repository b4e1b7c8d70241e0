"""Sockets of a scripted daemon: JSON lines on a Unix socket, and WebSocket, in threads.

Threads serve trio, asyncio, blocking clients and other processes alike.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it takes longer to import than everything else here, and few need it
    from websockets.sync.server import Server, ServerConnection

STOPPING = 5.0  # seconds that a thread may take to end
LONGEST = 1024 * 1024  # bytes of a message


class Connection:
    """One client. ``send`` may be called from any thread; ``cut`` closes the connection without a goodbye."""

    def __init__(self, send: Callable[[str], None], cut: Callable[[], None], gone: type[Exception] = OSError) -> None:
        self._send = send
        self._cut = cut
        self._gone = gone  # what ``send`` raises once the client has gone
        self._lock = threading.Lock()
        self.subscriptions: dict[str, dict[str, Any]] = {}  # parameters by the subscription's name

    def cut(self) -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            self._cut()

    def send(self, message: Any) -> None:
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError, self._gone):
            self._send(text)

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification to each of its subscriptions."""
        for name in list(self.subscriptions):
            self.send({"jsonrpc": "2.0", "method": method, "params": {"subscription": name, **params}})


def _line_connection(sock: socket.socket) -> Connection:
    return Connection(lambda text: sock.sendall(text.encode() + b"\n"), lambda: sock.shutdown(socket.SHUT_RDWR))


class Connections:
    """Accepts clients, and passes each of their texts to ``receive`` in a thread."""

    def __init__(self, receive: Callable[[Connection, bytes | str], None]) -> None:
        self.open: list[Connection] = []
        self.opened = 0  # connections since the beginning
        self._receive = receive
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._websocket: Server | None = None

    def listen(self, path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self._listener = listener
        self._accepting = self.spawn(self._accept, listener)

    def listen_http(self, token: str, longest: int = LONGEST) -> int:
        """Serve ``/ws`` on a port of 127.0.0.1; returns the port."""
        from websockets.datastructures import Headers
        from websockets.http11 import Request, Response
        from websockets.sync.server import serve

        def check(connection: ServerConnection, request: Request) -> Response | None:
            if request.path != "/ws":
                return Response(HTTPStatus.NOT_FOUND, "Not Found", Headers())
            if request.headers.get("Authorization") != f"Bearer {token}":
                return Response(HTTPStatus.UNAUTHORIZED, "Unauthorized", Headers())
            return None

        server = serve(self._serve_websocket, "127.0.0.1", 0, process_request=check, max_size=longest)
        self._websocket = server
        self.spawn(server.serve_forever)
        port: int = server.socket.getsockname()[1]
        return port

    def cut(self) -> None:
        """Close every connection without a goodbye."""
        for connection in list(self.open):
            connection.cut()

    def close(self) -> None:
        """Close everything; it may be called from one of its own threads. Raises AssertionError where a thread does not
        end."""
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.shutdown(socket.SHUT_RDWR)
            self._join(self._accepting)  # after it no connection is added
            listener.close()
        self.cut()
        if self._websocket is not None:
            self._websocket.shutdown()
            self._websocket = None
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            self._join(thread)
        self.open.clear()

    def spawn(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        """Start a thread that ends by itself, or with its connection."""
        thread = threading.Thread(target=target, args=args, daemon=True, name=f"scripted {target.__name__}")
        with self._lock:
            thread.start()
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        return thread

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        if thread is not threading.current_thread():
            thread.join(STOPPING)
            assert not thread.is_alive(), f"{thread.name} did not end: an answer of the script still runs"

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.spawn(self._serve_lines, sock, self._add(_line_connection(sock)))

    def _serve_lines(self, sock: socket.socket, connection: Connection) -> None:
        with sock, sock.makefile("rb") as lines:
            with contextlib.suppress(OSError):
                for line in lines:
                    self._receive(connection, line)
            self._remove(connection)

    def _serve_websocket(self, websocket: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        connection = Connection(
            websocket.send, lambda: websocket.socket.shutdown(socket.SHUT_RDWR), gone=ConnectionClosed
        )
        self._add(connection)
        with contextlib.suppress(ConnectionClosed):
            for message in websocket:
                self._receive(connection, message)
        self._remove(connection)

    def _add(self, connection: Connection) -> Connection:
        with self._lock:
            self.opened += 1
            self.open.append(connection)
        return connection

    def _remove(self, connection: Connection) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self.open.remove(connection)
