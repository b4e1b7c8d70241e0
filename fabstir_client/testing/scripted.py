"""A scripted daemon: its API on a real socket, without a node.

It starts in milliseconds and does what the test says: a dial that fails, a peer that leaves, a missed event, a restart.
Everything it sends is checked against the OpenRPC document, so no program passes its tests with answers that no daemon
gives.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fabstir_client._sync.client import Client as SyncClient
from fabstir_client._sync.client import connect as connect_sync
from fabstir_client.api.base import Record
from fabstir_client.api.errors import (
    FabstirError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    NodeNotRunning,
    ParseError,
)
from fabstir_client.testing import document
from fabstir_client.testing.connections import Connection, Connections
from fabstir_client.testing.document import Json
from fabstir_client.testing.scripted_node import ScriptedNode

if TYPE_CHECKING:
    from fabstir_client._async.client import Client

TOKEN = "the-token-of-a-scripted-daemon"
Answer = Callable[[Json], Any]


class ScriptedDaemon(ScriptedNode):
    """A context manager. At its end a script that was not as documented raises `NotAsDocumented`.

    ``calls`` are the calls received: pairs of a method and its parameters, by name. Without a script, ``status start
    stop peers connect disconnect wait subscribe unsubscribe events shutdown`` follow the node's state, peers and log;
    every other method returns the OpenRPC document's example, adapted to the parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Json]] = []
        self.subscribed = threading.Event()  # set once a client follows the events
        self.methods: dict[str, Answer] = {}  # set by the test
        self.by_itself["rpc.discover"] = lambda params: document.document()
        self.by_itself |= dict.fromkeys(("stream.open", "stream.accept"), _no_streams)
        self.data_dir = Path()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._connections = Connections(self._receive)
        self._runs = 1
        self.epoch = f"{self._runs:016x}"
        self._port: int | None = None
        self._lies: list[Exception] = []

    # -- what a test says

    def answer(self, method: str, *answers: Any) -> None:
        """Set the results of the next calls of ``method``, in order; the last one stays. Each is a result (plain
        values, or a record of the client), a `FabstirError` that the daemon answers with, or a function of the
        parameters that returns or raises one of these, and may block. Raises `NotAsDocumented`."""
        for one in answers:
            if not callable(one):
                self._checked(method, one)
        left = list(answers)

        def play(params: Json) -> Any:
            with self.changed:
                now = left.pop(0) if len(left) > 1 else left[0]
            return now(params) if callable(now) else now

        if self.held:
            document.method(method)
        self.methods[method] = play

    def heartbeat(self) -> None:
        for connection in list(self._connections.open):
            connection.notify("heartbeat", head=self.head)

    def cut(self) -> None:
        """Close every connection without a goodbye."""
        self.subscribed.clear()
        self._connections.cut()

    def restart(self, epoch: str | None = None) -> None:
        """Begin another run: the log begins anew, and every connection is closed."""
        self.stop()
        self._runs += 1
        with self.changed:
            self.epoch, self.log, self.oldest = epoch or f"{self._runs:016x}", [], 1
        self.start()

    # -- where it is, as `Daemon` says it

    @property
    def ipc(self) -> str:
        return f"ipc:{self.data_dir / 'api.sock'}"

    @property
    def http(self) -> str:
        """The address of WebSocket, at ``/ws``; it is served from the first use of this. There is no ``POST /rpc``."""
        if self._port is None:
            self._port = self._connections.listen_http(self.token)
            self._write_api_file()
        return f"http://127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        return TOKEN

    def connect(self) -> Client:
        from fabstir_client._async.client import connect

        return connect(api=self.ipc)

    def connect_sync(self) -> SyncClient:
        return connect_sync(api=self.ipc)

    # -- its life

    def start(self) -> None:
        """Listen. After `stop` it is the same run, as after an outage."""
        if self._folder is None and self.data_dir == Path():
            self._folder = tempfile.TemporaryDirectory(prefix="fabstir-")
            self.data_dir = Path(self._folder.name)
            (self.data_dir / "api.token").write_text(TOKEN)
        self.ending = False
        self._connections.listen(self.data_dir / "api.sock")
        if self._port is not None:
            self._port = self._connections.listen_http(self.token)
        self._write_api_file()

    def stop(self) -> None:
        """Stop listening, and close every connection."""
        with self.changed:
            self.ending = True
            self.changed.notify_all()
        self.subscribed.clear()
        (self.data_dir / "api.sock").unlink(missing_ok=True)
        (self.data_dir / "api.json").unlink(missing_ok=True)
        self._connections.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if self._folder is not None:
            self._folder.cleanup()
        if self._lies and kind is None:
            raise self._lies[0]

    def _write_api_file(self) -> None:
        known = {"pid": os.getpid(), "epoch": self.epoch, "version": document.document()["info"]["version"]}
        http = f"127.0.0.1:{self._port}" if self._port is not None else ""
        written = self.data_dir / "api.json.new"
        written.write_text(json.dumps(known | {"ipc": str(self.data_dir / "api.sock"), "http": http}))
        written.replace(self.data_dir / "api.json")

    # -- calls

    def _receive(self, connection: Connection, text: bytes | str) -> None:
        try:
            request = json.loads(text)
        except ValueError as error:
            return self._refuse(connection, ParseError(f"not JSON: {error}"))
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return self._refuse(connection, InvalidRequest("no request; a scripted daemon takes no batches"))
        params = request.get("params", {})
        if self.held:
            try:
                params = document.named_params(request["method"], params)
            except FabstirError as error:
                return self._refuse(connection, error, request.get("id"))
        self.calls.append((request["method"], params))
        # A thread each, so that an answer that the script holds back delays no other call
        self._connections.spawn(self._answer, connection, request, params)
        return None

    @staticmethod
    def _refuse(connection: Connection, error: FabstirError, request_id: Any = None) -> None:
        connection.send({"jsonrpc": "2.0", "id": request_id, "error": error.to_error_object()})

    def _answer(self, connection: Connection, request: Json, params: Json) -> None:
        method = request["method"]
        if method == "subscribe" and method not in self.methods:
            answer = self._subscribe(connection, request.get("id"), params)
        else:
            answer = self._outcome(method, lambda: self._result(connection, method, params))
        if answer is not None and "id" in request:
            connection.send({"jsonrpc": "2.0", "id": request["id"], **answer})
        if method == "shutdown" and method not in self.methods:
            self.stop()

    def _result(self, connection: Connection, method: str, params: Json) -> Any:
        if method in self.methods:
            return self.methods[method](params)
        if self.state != "started" and "NODE_NOT_RUNNING" in document.declared(method):
            raise NodeNotRunning(f"the node is {self.state}", state=self.state)
        if method in self.by_itself:
            return self.by_itself[method](params)
        if method == "unsubscribe":
            if connection.subscriptions.pop(params["subscription"], None) is None:
                raise InvalidParams(f"there is no subscription {params['subscription']}", param="subscription")
            return {"subscription": params["subscription"]}
        shown = document.example(method)
        if isinstance(shown, dict):
            shown |= {name: value for name, value in params.items() if type(value) is type(shown.get(name))}
        return shown

    def _outcome(self, method: str, find: Callable[[], Any]) -> Json:
        """``{"result": …}`` or ``{"error": …}``. A script that is not as documented causes an internal error, and is
        raised at the end of the test."""
        try:
            try:
                found = find()
            except FabstirError as error:
                found = error
            return self._checked(method, found)
        except Exception as error:  # noqa: BLE001 - the script's own error, in our thread: the test must see it
            self._lies.append(error)
            internal = InternalError(f"the script: {error}", logId="of-the-script")
            return {"error": internal.to_error_object()}

    def _checked(self, method: str, answer: Any) -> Json:
        if isinstance(answer, FabstirError):
            told = answer.to_error_object()
            if self.held:
                document.hold_error(method, told)
            return {"error": told}
        plain = _plain(answer)
        if self.held:
            document.hold_result(method, plain)
        return {"result": plain}

    def _subscribe(self, connection: Connection, request_id: Any, params: Json) -> Json | None:
        """Answer, and send the known events, under the lock so that nothing comes in between."""
        with self.changed:
            try:
                after, gap = self.beginning(params, otherwise=self.head)
            except InvalidParams as error:
                return {"error": error.to_error_object()}
            name = f"s{len(connection.subscriptions) + 1}"
            result = {"subscription": name, "epoch": self.epoch, "head": self.head, "status": self.status()}
            answer = self._outcome("subscribe", lambda: result | {"peers": self.peer_records()})
            connection.subscriptions[name] = params
            connection.send({"jsonrpc": "2.0", "id": request_id, **answer})
            if gap is not None:
                lagged = {"method": "lagged", "params": {"subscription": name, **gap}}
                connection.send({"jsonrpc": "2.0", **lagged})
            for entry in self.log[after:]:
                self._tell_one(connection, name, entry)
            self.subscribed.set()
            return None

    def published(self, entry: Json) -> None:
        for connection in list(self._connections.open):
            for name in list(connection.subscriptions):
                self._tell_one(connection, name, entry)

    @staticmethod
    def _tell_one(connection: Connection, name: str, entry: Json) -> None:
        kinds = connection.subscriptions[name].get("types")
        if kinds is None or entry["type"] in kinds:
            connection.send({"jsonrpc": "2.0", "method": "event", "params": {"subscription": name, **entry}})


def _no_streams(params: Json) -> Any:
    raise NotImplementedError("a scripted daemon has no streams: the fixture fabstird_pair is two real ones")


def _plain(value: Any) -> Any:
    """As plain JSON values: records of the client under their names on the wire."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
