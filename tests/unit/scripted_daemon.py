"""A daemon whose answers a test writes: a real server on a real socket, speaking JSON lines or WebSocket.

It keeps the log of events as CONTRACT, section 5, says, so that the client's part in lag and replay can be seen without
a node. Everything runs in threads of its own, so that it serves trio, asyncio and blocking clients alike.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from fabstir_client.errors import FabstirError, InvalidParams, MethodNotFound

PEER = "12D3KooWPeer"
OWN = "12D3KooWOwn"


def until(condition: Callable[[], Any], within: float = 10) -> None:
    """Wait for the threads of a `ScriptedDaemon`, or others, to have made ``condition`` true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def descriptors() -> int:
    """The open file descriptors of this process, those of the server's side included."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class Connection:
    """One client. ``send`` may be called from any thread; ``cut`` ends it without a word."""

    def __init__(self, send: Callable[[str], None], cut: Callable[[], None]) -> None:
        self._send = send
        self._cut = cut
        self._lock = threading.Lock()
        self.subscription: dict[str, Any] | None = None

    def cut(self) -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            self._cut()

    def send(self, message: Any) -> None:
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError, ConnectionClosed):
            self._send(text)

    def notify(self, method: str, **params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": {"subscription": "s1", **params}})


def _line_connection(sock: socket.socket) -> Connection:
    return Connection(lambda text: sock.sendall(text.encode() + b"\n"), lambda: sock.shutdown(socket.SHUT_RDWR))


class ScriptedDaemon:
    """``methods`` maps a name to ``f(params)``, which may block: each call has a thread. ``calls`` is what came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.epoch = "run-1"
        self.log: list[dict[str, Any]] = []
        self.oldest = 1
        self.state = "stopped"
        self.peers: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.connections: list[Connection] = []
        self.opened = 0
        self.methods: dict[str, Callable[[Any], Any]] = {
            "status": lambda params: self.status(),
            "start": self._start,
            "stop": self._stop,
            "peers": lambda params: [self.peer(peer) for peer in self.peers],
            "echo": lambda params: params,
            "events": self._events,
        }
        self.subscribed = threading.Event()
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._websocket: Server | None = None

    # What a test does with it

    @property
    def head(self) -> int:
        return len(self.log)

    def publish(self, kind: str, **data: Any) -> int:
        with self._lock:
            self.log.append(
                {"epoch": self.epoch, "seq": self.head + 1, "time": 1_700_000_000_000, "type": kind, "data": data}
            )
            for connection in self.connections:
                self._tell(connection, self.log[-1])
            return self.head

    def heartbeat(self) -> None:
        for connection in self.connections:
            if connection.subscription is not None:
                connection.notify("heartbeat", head=self.head)

    def cut(self) -> None:
        """End every connection without a word."""
        self.subscribed.clear()
        for connection in list(self.connections):
            connection.cut()

    def restart(self, epoch: str) -> None:
        """Another run: the log begins anew, and everybody is thrown out."""
        self.stop()
        with self._lock:
            self.epoch, self.log, self.oldest = epoch, [], 1
        self.start()

    def status(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "connected": self.state == "started",
            "peerId": OWN,
            "connections": len(self.peers),
            "peers": len(self.peers),
            "bootstrapNodes": [],
            "listenAddresses": [],
            "version": "0",
            "epoch": self.epoch,
            "head": self.head,
        }

    def peer(self, peer: str) -> dict[str, Any]:
        return {
            "peerId": peer,
            "direction": "inbound",
            "connectedAt": 1_700_000_000_000,
            "addresses": [],
            "connections": [],
            "protocols": [],
            "tags": {},
            "protected": False,
            "bootstrap": False,
            "somethingNew": 1,
        }

    # Life

    def start(self) -> None:
        assert not self._threads
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._spawn(self._accept, self._listener)

    def stop(self) -> None:
        if self._listener is not None:
            self.path.unlink(missing_ok=True)
            self._listener.shutdown(socket.SHUT_RDWR)
            self._threads.pop(0).join(5)  # who accepts; after it no connection is added
            self._listener.close()
            self._listener = None
        self.cut()
        if self._websocket is not None:
            self._websocket.shutdown()
            self._websocket = None
        for thread in list(self._threads):
            thread.join(5)
            assert not thread.is_alive(), f"{thread.name} did not end"
        self._threads.clear()
        self.connections.clear()

    def serve_websocket(self, token: str) -> int:
        """Serve WebSocket as well; returns the port."""

        def check(connection: ServerConnection, request: Request) -> Response | None:
            if request.path != "/ws":
                return Response(HTTPStatus.NOT_FOUND, "Not Found", Headers())
            if request.headers.get("Authorization") != f"Bearer {token}":
                return Response(HTTPStatus.UNAUTHORIZED, "Unauthorized", Headers())
            return None

        self._websocket = serve(self._serve_websocket, "127.0.0.1", 0, process_request=check, max_size=4096)
        self._spawn(self._websocket.serve_forever)
        port: int = self._websocket.socket.getsockname()[1]
        return port

    def __enter__(self) -> ScriptedDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # How it works

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name=f"scripted {target.__name__}")
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve_lines, sock, self._add(_line_connection(sock)))

    def _serve_lines(self, sock: socket.socket, connection: Connection) -> None:
        with sock, sock.makefile("rb") as lines:
            with contextlib.suppress(OSError):
                for line in lines:
                    self._spawn(self._answer, connection, line)
            self._remove(connection)

    def _serve_websocket(self, websocket: ServerConnection) -> None:
        connection = self._add(Connection(websocket.send, lambda: websocket.socket.shutdown(socket.SHUT_RDWR)))
        try:
            for message in websocket:
                self._spawn(self._answer, connection, message)
        except ConnectionClosed:
            pass
        self._remove(connection)

    def _add(self, connection: Connection) -> Connection:
        with self._lock:
            self.opened += 1
            self.connections.append(connection)
        return connection

    def _remove(self, connection: Connection) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self.connections.remove(connection)

    def _answer(self, connection: Connection, message: bytes | str) -> None:
        request = json.loads(message)
        method, params = request["method"], request["params"]
        self.calls.append((method, params))
        try:
            if method == "subscribe":
                self._subscribe(connection, request["id"], params)
                return
            if method not in self.methods:
                raise MethodNotFound(f"no method {method}")
            answer = {"result": self.methods[method](params)}
        except FabstirError as error:
            answer = {"error": error.to_error_object()}
        connection.send({"jsonrpc": "2.0", "id": request["id"], **answer})

    def _subscribe(self, connection: Connection, request_id: int, params: dict[str, Any]) -> None:
        with self._lock:
            after, epoch = params.get("after"), params.get("epoch")
            gap = None
            if epoch is not None and epoch != self.epoch:
                after, gap = self.head, {"missed": None, "resume": self.head + 1}
            elif after is None:
                after = self.head
            elif after > self.head:
                raise InvalidParams(f"after is {after}, but the newest event is {self.head}")
            elif after + 1 < self.oldest:
                gap = {"missed": self.oldest - 1 - after, "resume": self.oldest}
                after = self.oldest - 1
            peers = [self.peer(peer) for peer in self.peers]
            result = {
                "subscription": "s1",
                "epoch": self.epoch,
                "head": self.head,
                "status": self.status(),
                "peers": peers,
            }
            connection.subscription = params  # nothing is published before the answer: that needs the lock
            connection.send({"jsonrpc": "2.0", "id": request_id, "result": result})
            if gap is not None:
                connection.notify("lagged", **gap)
            for entry in self.log[after:]:
                self._tell(connection, entry)
            self.subscribed.set()

    def _tell(self, connection: Connection, entry: dict[str, Any]) -> None:
        if connection.subscription is None:
            return
        kinds = connection.subscription.get("types")
        if kinds is None or entry["type"] in kinds:
            connection.notify("event", **entry)

    def _start(self, params: Any) -> dict[str, Any]:
        if self.state != "started":
            self.state = "started"
            self.publish("p2p:started", peerId=OWN, listenAddresses=[])
        return self.status()

    def _stop(self, params: Any) -> dict[str, Any]:
        if self.state == "started":
            for peer in self.peers:
                self.publish("peer:disconnect", peerId=peer, reason="stopped", duration=1)
            self.peers.clear()
            self.state = "stopped"
            self.publish("p2p:stopped", peerId=OWN)
        return self.status()

    def _events(self, params: Any) -> dict[str, Any]:
        after = params.get("after", self.oldest - 1)
        missed = max(0, self.oldest - 1 - after)
        kinds = params.get("types")
        entries = [e for e in self.log[max(after, self.oldest - 1) :] if kinds is None or e["type"] in kinds]
        return {"epoch": self.epoch, "head": self.head, "events": entries, "missed": missed}


@contextlib.contextmanager
def scripted_daemon(path: Path) -> Iterator[ScriptedDaemon]:
    """A running `ScriptedDaemon` on a Unix socket."""
    with ScriptedDaemon(path) as daemon:
        yield daemon
