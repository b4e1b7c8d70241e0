# Made by scripts/unasync from fabstir_client/_async/client.py: change that, and run it again.
"""The client, for programs without an event loop."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from fabstir_client._core import calls
from fabstir_client._core.cursor import SILENCE
from fabstir_client._core.discovery import StrPath, Target
from fabstir_client._sync.events import EventStream
from fabstir_client._sync.listening import RequestListener, StreamListener, StreamOpening
from fabstir_client._sync.runner import Runner
from fabstir_client.api import access as types_access
from fabstir_client.api import debug as types_debug
from fabstir_client.api import dht as types_dht
from fabstir_client.api import fabstir as types_fabstir
from fabstir_client.api import streams as types_streams
from fabstir_client.api import types
from fabstir_client.api import ui as types_ui


def connect(
    *, api: str | None = None, data_dir: StrPath | None = None, token: str | None = None, bound: float | None = None
) -> Client:
    """A client, to be used as ``with connect() as client``.

    Entering raises `DaemonUnreachable` where no daemon answers, `Forbidden` where it refuses the token, and
    `InvalidConfig` where a setting is wrong.

    Args:
        api: ``ipc:/path`` or ``http://host:port``. Without it, the daemon is found by ``data_dir`` if given, else by
            FABSTIR_API, else in the usual places.
        data_dir: The daemon's data directory.
        token: For http. Without it, FABSTIR_TOKEN, FABSTIR_TOKEN_FILE and the data directory are tried.
        bound: Seconds that any call may take, connecting included. Without it 60 s, or a second more than its timeout.
    """
    return Client(Target(api, data_dir, token), bound)


class Client:
    """The daemon's methods. Any number of calls may be in flight.

    Every method may raise the daemon's own errors (`RpcError`); `ConnectionLost` where the connection ended before the
    answer arrived, so that the daemon may or may not have carried out the call; `ClientTimeout` where no answer arrived
    in time; and `DaemonUnreachable`. A call after the connection was lost reconnects, once. After a fork, the child's
    calls use connections of their own.
    """

    def __init__(self, target: Target, bound: float | None = None) -> None:
        self._target = target
        self._runner = Runner(target, bound)
        self._run = self._runner.run
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    def __enter__(self) -> Client:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        for stream in list(self._streams):
            stream.close()
        return self._runner.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Close its connections, as leaving the ``with`` does."""
        self.__exit__(None, None, None)

    def start(self, config: calls.Config | None = None) -> types.Status:
        """Start the node; ``config`` overrides keys of ``[node]`` for this run, in camelCase or snake_case.

        Idempotent; it does not wait for any dial. Raises `InvalidState` where the node runs with another configuration,
        `ListenFailed`, and `InvalidConfig` for a key that ``[node]`` does not have or a value of the wrong type.
        """
        return self._run(calls.start(config))

    def stop(self) -> types.Status:
        """Stop the node; idempotent. The daemon keeps running, and `start` works again."""
        return self._run(calls.stop())

    def status(self) -> types.Status:
        """The state of the node and of the event log."""
        return self._run(calls.status())

    def peers(self) -> list[types.Peer]:
        """The connected peers."""
        return self._run(calls.peers())

    def addresses(self) -> types.Addresses:
        """Where the node listens, what it announces, and where peers observe it."""
        return self._run(calls.addresses())

    def metrics(self) -> types.Metrics:
        """Counters, since the daemon started."""
        return self._run(calls.metrics())

    def connect(self, address: str, timeout: int | None = None) -> types.ConnectResult:
        """Connect to a multiaddr with ``/p2p/``, or to a peer id whose addresses are known; ``timeout`` in ms.

        Raises `DialFailed`, `DeadlineExceeded`, `PeerNotFound`, `InvalidParams` or `NodeNotRunning`.
        """
        return self._run(calls.connect(address, timeout))

    def disconnect(self, peer_id: str) -> types.DisconnectResult:
        """Close all connections to a peer. Raises `PeerNotFound` where there is none."""
        return self._run(calls.disconnect(peer_id))

    def ping(self, peer_id: str, timeout: int | None = None) -> types.PingResult:
        """Measure the round trip to a connected peer, in ms; ``timeout`` in ms."""
        return self._run(calls.ping(peer_id, timeout))

    def wait(
        self,
        timeout: int,
        *,
        state: types.NodeState | None = None,
        peers: int | None = None,
        peer_id: str | None = None,
        protocol: str | None = None,
    ) -> types.WaitResult:
        """Wait until all given conditions hold: the node's ``state``, at least ``peers`` peers, the connected
        ``peer_id``, and a ``protocol`` that this peer, or any, supports. Raises `DeadlineExceeded` after ``timeout``
        ms."""
        return self._run(calls.wait(timeout, state, peers, peer_id, protocol))

    def explain(self, target: str) -> types.Explanation:
        """Why a peer is or is not connected: everything known about a peer id or an address."""
        return self._run(calls.explain(target))

    def keep(self, address: str, lease: Literal["connection"] | None = None) -> types.KeepResult:
        """Stay connected to an address, across restarts of the daemon. With a lease of ``"connection"``, only while
        this client's connection is open; call this again after it was lost."""
        return self._run(calls.keep(address, lease))

    def forget(self, target: str) -> types.ForgetResult:
        """Stop keeping an address, or every address of a peer. Existing connections stay."""
        return self._run(calls.forget(target))

    def ban(self, target: str, duration: int | None = None, reason: str | None = None) -> types.BanResult:
        """Ban a peer id, an IP address or a network, for ``duration`` ms or for good."""
        return self._run(calls.ban(target, duration, reason))

    def unban(self, target: str) -> types.UnbanResult:
        """Lift a ban."""
        return self._run(calls.unban(target))

    def bans(self) -> list[types.BanRecord]:
        """The bans in force."""
        return self._run(calls.bans())

    def tag(self, peer_id: str, tag: str, value: int) -> types.PeerTags:
        """Tag a peer; trimming spares the peers whose tags have the highest sum."""
        return self._run(calls.tag(peer_id, tag, value))

    def untag(self, peer_id: str, tag: str) -> types.PeerTags:
        """Remove a tag from a peer."""
        return self._run(calls.untag(peer_id, tag))

    def protect(self, peer_id: str) -> types.PeerTags:
        """Never trim a peer."""
        return self._run(calls.protect(peer_id))

    def unprotect(self, peer_id: str) -> types.PeerTags:
        """Allow a peer to be trimmed again."""
        return self._run(calls.unprotect(peer_id))

    def request(
        self,
        peer_id: str,
        protocol: str,
        data: bytes,
        framing: types_streams.Framing | None = None,
        timeout: int | None = None,
    ) -> types_streams.RequestResult:
        """Send one message to a peer on a protocol and read one back, both framed by ``framing`` (default ``uvarint``).
        ``timeout`` is in ms. The answer's bytes are ``base64.b64decode(result.data)``."""
        return self._run(calls.request(peer_id, protocol, data, framing, timeout))

    def requests(
        self,
        protocol: str,
        framing: types_streams.Framing | None = None,
        deadline: int | None = None,
        shared: bool | None = None,
    ) -> RequestListener:
        """Peers' messages on a protocol: ``with client.requests(protocol) as requests``, then iterate.

        Each must be answered within ``deadline`` ms. Entering raises `InvalidState` if another connection handles the
        protocol.
        """
        return RequestListener(
            self._target, types_streams.HandleParams(protocol, "message", framing, deadline, shared=shared)
        )

    def open_stream(self, peer_id: str, protocol: str | Sequence[str], timeout: int | None = None) -> StreamOpening:
        """A stream to a peer on a protocol, or on the first of several that it supports: ``with
        client.open_stream(peer_id, protocol) as stream``. ``timeout`` (ms) is for opening it.

        Entering raises `StreamFailed`, `PeerNotFound`, `DialFailed`, `NodeNotRunning`, `LimitExceeded` or
        `DeadlineExceeded`. Leaving closes the stream; if the body raises, it is reset.
        """
        return StreamOpening(self._target, calls.open_stream(peer_id, protocol, timeout))

    def listen(
        self,
        protocol: str,
        backlog: int | None = None,
        accept_timeout: int | None = None,
        shared: bool | None = None,
    ) -> StreamListener:
        """Peers' streams on a protocol: ``with client.listen(protocol) as listener``, then ``serve(handler)``,
        `accept`, or iterate. After a lost connection the protocol is handled again.

        ``backlog`` streams may wait for ``accept_timeout`` ms each. Entering raises `InvalidState` where another
        connection handles the protocol, unless both set ``shared``.
        """
        params = types_streams.HandleParams(
            protocol, "stream", backlog=backlog, accept_timeout=accept_timeout, shared=shared
        )
        return StreamListener(self._target, params)

    def streams(self) -> list[types_streams.StreamRecord]:
        """This caller's streams, listed until a minute after they have ended; with admin access, everybody's."""
        return self._run(calls.streams())

    def reset_stream(self, stream_id: str) -> types_streams.ResetResult:
        """Reset a stream in both directions at once."""
        return self._run(calls.reset_stream(stream_id))

    def task_tree(self) -> types_debug.TaskTree:
        """What every task of the daemon waits for."""
        return self._run(calls.task_tree())

    def dump(self) -> types_debug.Dump:
        """A zip file, as bytes, that helps to diagnose a problem."""
        return self._run(calls.dump())

    def log_level(self, logger: str | None = None, level: str | None = None) -> types_debug.LogLevels:
        """Change the level of the daemon's log, or of one logger; without ``level``, only return it."""
        return self._run(calls.log_level(logger, level))

    def log_tail(
        self, after: int | None = None, level: types_ui.LogLevel = "debug", limit: int | None = None
    ) -> types_ui.LogTail:
        """The newest lines of the daemon's log after line ``after``, of at least ``level``; at most ``limit``."""
        return self._run(calls.log_tail(after, level, limit))

    def dials(self) -> list[types_ui.DialRecord]:
        """Addresses that the node stays connected to, with the state of each cycle of dials."""
        return self._run(calls.dials())

    def ui_code(self, access: types_access.Access = "read") -> types_ui.UiCode:
        """A code that opens the page at ``/ui`` once, within 30 s. Over the IPC socket only."""
        return self._run(calls.ui_code(access))

    def token_create(
        self,
        name: str,
        access: types_access.Access,
        methods: Sequence[str] | None = None,
        expires_in: int | None = None,
        protocols: Sequence[str] | None = None,
        peers: Sequence[str] | None = None,
    ) -> types_access.TokenCreated:
        """Create a token for HTTP and WebSocket: for ``methods`` only, if given, and valid for ``expires_in`` ms or
        until it is revoked. ``protocols`` are patterns, such as ``/acme/*``, of those that it may handle, open and
        request; ``peers`` are the ids that its calls may name. The token itself is returned only here."""
        return self._run(calls.token_create(name, access, methods, expires_in, protocols, peers))

    def token_list(self) -> list[types_access.TokenRecord]:
        """The existing tokens, without the secrets."""
        return self._run(calls.token_list())

    def token_revoke(self, name: str) -> types_access.TokenRevoked:
        """Revoke a token at once, on open connections too."""
        return self._run(calls.token_revoke(name))

    def audit(self, after: int | None = None, limit: int | None = None) -> types_access.AuditResult:
        """The latest calls that changed something or were refused; with ``after``, those after that number."""
        return self._run(calls.audit(after, limit))

    def dht_find_peer(self, peer_id: str, timeout: int | None = None) -> types_dht.FoundPeer:
        """Find the addresses of a peer in the DHT. Raises `PeerNotFound`."""
        return self._run(calls.dht_find_peer(peer_id, timeout))

    def dht_find_providers(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        count: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundProviders:
        """Find providers of a key, which is text unless ``encoding`` says otherwise. The search ends at ``count``
        providers. Each is published as a ``dht:provider`` event with ``query_id`` when found."""
        return self._run(calls.dht_find_providers(key, encoding, count, timeout, query_id))

    def dht_provide(
        self, key: str, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.Provided:
        """Announce that this node provides a key, now and every twelve hours, until `dht_forget`."""
        return self._run(calls.dht_provide(key, encoding, timeout))

    def dht_get_value(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        quorum: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundValue:
        """The value of a key; ``found`` is false where no peer has one."""
        return self._run(calls.dht_get_value(key, encoding, quorum, timeout, query_id))

    def dht_put_value(
        self, key: str, value: bytes, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.StoredValue:
        """Put a value, now and every twelve hours, until `dht_forget`."""
        return self._run(calls.dht_put_value(key, value, encoding, timeout))

    def dht_forget(self, key: str, encoding: types_dht.KeyEncoding | None = None) -> types_dht.Forgotten:
        """Stop announcing a key, and its value."""
        return self._run(calls.dht_forget(key, encoding))

    def dht_status(self) -> types_dht.DhtStatus:
        """The state of the DHT."""
        return self._run(calls.dht_status())

    def dht_routing(self) -> types_dht.DhtRouting:
        """The DHT's routing table."""
        return self._run(calls.dht_routing())

    def announce(
        self, capabilities: Sequence[str], metadata: Mapping[str, Any] | None = None, timeout: int | None = None
    ) -> types_fabstir.Announced:
        """Announce this node's capabilities by the Fabstir scheme, until `withdraw`."""
        return self._run(calls.announce(capabilities, metadata, timeout))

    def withdraw(self, capabilities: Sequence[str]) -> types_fabstir.Withdrawn:
        """Stop announcing capabilities."""
        return self._run(calls.withdraw(capabilities))

    def discover(
        self,
        model: str,
        filters: types_fabstir.DiscoverFilters | None = None,
        force_refresh: bool = False,
        timeout: int | None = None,
    ) -> types_fabstir.Discovered:
        """Nodes that serve a model, best first. Results are cached for five minutes, unless ``force_refresh``."""
        return self._run(calls.discover(model, filters, force_refresh, timeout))

    def config(self) -> dict[str, Any]:
        """The daemon's effective configuration, under the keys of its file."""
        return self._run(calls.config())

    def version(self) -> types.VersionResult:
        """Versions, and the protocols that the node supports."""
        return self._run(calls.version())

    def shutdown(self) -> None:
        """Stop the daemon itself, as SIGTERM does."""
        self._run(calls.shutdown())

    def call(
        self, method: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, bound: float | None = None
    ) -> Any:
        """Call any method by name; the result as plain values. ``bound`` is how many seconds to wait for it."""
        return self._run(calls.any_method(method, params, bound))

    def call_raw(
        self, method: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, bound: float | None = None
    ) -> bytes:
        """Call any method by name; the result as the JSON that the daemon sent."""
        raw = self._run(calls.raw_method(method, params, bound))
        return bytes(raw)

    def events(
        self,
        types: Sequence[str] | None = None,
        after: int | None = None,
        epoch: str | None = None,
        *,
        silence: float = SILENCE,
        patience: float | None = None,
    ) -> EventStream:
        """The events of ``types``, or of all types, from now on or from after entry ``after`` of run ``epoch``.

        Iterates over `Event` and, where some were missed, `Lagged`. The stream has its own connection, and continues
        after the daemon was restarted. It raises `DaemonUnreachable` only if ``patience``, in seconds, is given and no
        daemon came back in that time. Without ``after``, "now" is the first step of the iteration, or entering the
        stream as a context manager.
        """
        stream = EventStream(self._target, types, after, epoch, silence=silence, patience=patience)
        self._streams.add(stream)
        return stream
