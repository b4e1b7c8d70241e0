"""The blocking client: the twin of `fabstir_client.client`, for programs without an event loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fabstir_client import calls, types, types_access, types_debug, types_dht, types_fabstir, types_streams
from fabstir_client.cursor import SILENCE
from fabstir_client.discovery import StrPath, Target
from fabstir_client.protocol import Call, Session, T
from fabstir_client.sync_link import SyncLink, request
from fabstir_client.sync_stream import EventStream

if TYPE_CHECKING:
    from fabstir_client.sync_p2p import P2PClient as P2PClient
    from fabstir_client.sync_sdk import FabstirSDK as FabstirSDK

__all__ = ["Client", "EventStream", "FabstirSDK", "P2PClient", "connect", "connect_sync"]

KEPT = 4  # idle connections; more than that many calls at a time open and close their own


def __getattr__(name: str) -> Any:
    # Only who drives one of these pays for importing it.
    if name == "P2PClient":
        from fabstir_client.sync_p2p import P2PClient

        return P2PClient
    if name == "FabstirSDK":
        from fabstir_client.sync_sdk import FabstirSDK

        return FabstirSDK
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect_sync(*, api: str | None = None, data_dir: StrPath | None = None, token: str | None = None) -> Client:
    """A blocking client, to be used as ``with connect_sync() as client``, or as it is and closed with `Client.close`.

    The arguments are those of `fabstir_client.connect`. Entering the ``with`` raises `DaemonUnreachable` where no
    daemon answers, `Forbidden` where it refuses the token, and `InvalidConfig` where a setting is wrong; without a
    ``with`` the first call does.
    """
    return Client(Target(api, data_dir, token))


connect = connect_sync


class Client:
    """The methods of the daemon (CONTRACT, section 4), from any number of threads at a time.

    Every call has a connection to itself while it lasts, so that a slow one delays no other thread; idle connections
    are kept for the next call. The errors are those of `fabstir_client.client.Client`.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._idle: deque[SyncLink] = deque()
        self._closed = False

    def __enter__(self) -> Client:
        with self._lock:
            self._closed = False
        self._give_back(self._borrow())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections; calls in other threads finish on theirs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for link in idle:
            link.close()

    def _borrow(self) -> SyncLink:
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("this client is closed")
                link = self._idle.pop() if self._idle else None
            if link is None:
                return SyncLink.open(self._target)
            if link.idle():
                return link
            link.close()

    def _give_back(self, link: SyncLink) -> None:
        if link.closed:
            return
        with self._lock:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append(link)
                return
        link.close()

    def _run(self, call: Call[T]) -> T:
        link = self._borrow()
        try:
            return request(link, Session(), call, [])
        finally:
            self._give_back(link)

    def start(self, config: calls.Config | None = None) -> types.Status:
        """Start the node; ``config`` overrides keys of ``[node]`` for this run, in camelCase or snake_case.

        Idempotent, and never waits for a dial. Raises `InvalidState` where it runs already with another configuration,
        `ListenFailed`, and `InvalidConfig` for a key or a type that is none of ``[node]``'s.
        """
        return self._run(calls.start(config))

    def stop(self) -> types.Status:
        """Stop the node; idempotent. The daemon stays, and `start` works again."""
        return self._run(calls.stop())

    def status(self) -> types.Status:
        """The state of the node and of the event log."""
        return self._run(calls.status())

    def peers(self) -> list[types.Peer]:
        """The connected peers."""
        return self._run(calls.peers())

    def addresses(self) -> types.Addresses:
        """Where the node listens, what it announces, and what others say they see."""
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

    def explain(self, target: str) -> types.Explanation:
        """Why a peer is connected, or is not: everything known of a peer id or an address."""
        return self._run(calls.explain(target))

    def keep(self, address: str) -> types.KeepResult:
        """Stay connected to an address, across restarts of the daemon."""
        return self._run(calls.keep(address))

    def forget(self, target: str) -> types.ForgetResult:
        """No longer keep an address, or any address of a peer; a connection stays."""
        return self._run(calls.forget(target))

    def ban(self, target: str, duration: int | None = None, reason: str | None = None) -> types.BanResult:
        """Keep out a peer id, an IP address or a network, for ``duration`` ms or for good."""
        return self._run(calls.ban(target, duration, reason))

    def unban(self, target: str) -> types.UnbanResult:
        """Lift a ban."""
        return self._run(calls.unban(target))

    def bans(self) -> list[types.BanRecord]:
        """The bans in force."""
        return self._run(calls.bans())

    def tag(self, peer_id: str, tag: str, value: int) -> types.PeerTags:
        """Give a peer a tag; trimming spares peers whose tags add up to more."""
        return self._run(calls.tag(peer_id, tag, value))

    def untag(self, peer_id: str, tag: str) -> types.PeerTags:
        """Take a tag from a peer."""
        return self._run(calls.untag(peer_id, tag))

    def protect(self, peer_id: str) -> types.PeerTags:
        """Never trim a peer."""
        return self._run(calls.protect(peer_id))

    def unprotect(self, peer_id: str) -> types.PeerTags:
        """A peer may be trimmed again."""
        return self._run(calls.unprotect(peer_id))

    def request(
        self,
        peer_id: str,
        protocol: str,
        data: bytes,
        framing: types_streams.Framing | None = None,
        timeout: int | None = None,
    ) -> types_streams.RequestResult:
        """Send one message to a peer on a protocol and read one back; both are framed by ``framing`` (default
        ``uvarint``). ``timeout`` in ms. The answer's bytes are ``base64.b64decode(result.data)``."""
        return self._run(calls.request(peer_id, protocol, data, framing, timeout))

    def read_request(self, request_id: str) -> types_streams.ReadResult:
        """A request that waits, whole: its event carries only small ones."""
        return self._run(calls.read_request(request_id))

    def respond(self, request_id: str, data: bytes) -> types_streams.RespondResult:
        """Answer a request. Raises `InvalidState` where it does not wait any more."""
        return self._run(calls.respond(request_id, data))

    def task_tree(self) -> types_debug.TaskTree:
        """What every task of the daemon waits for."""
        return self._run(calls.task_tree())

    def dump(self) -> types_debug.Dump:
        """A zip file with what helps to find out what is wrong, as bytes."""
        return self._run(calls.dump())

    def log_level(self, logger: str | None = None, level: str | None = None) -> types_debug.LogLevels:
        """Change the level of the daemon's log, or of one logger; without a level, only tell."""
        return self._run(calls.log_level(logger, level))

    def token_create(
        self,
        name: str,
        access: types_access.Access,
        methods: Sequence[str] | None = None,
        expires_in: int | None = None,
    ) -> types_access.TokenCreated:
        """Make a token for HTTP and WebSocket: for ``methods`` only where they are given, good for ``expires_in`` ms
        or until it is revoked. It is told this once."""
        return self._run(calls.token_create(name, access, methods, expires_in))

    def token_list(self) -> list[types_access.TokenRecord]:
        """The tokens that there are, without the tokens themselves."""
        return self._run(calls.token_list())

    def token_revoke(self, name: str) -> types_access.TokenRevoked:
        """End a token, at once, on open connections too."""
        return self._run(calls.token_revoke(name))

    def audit(self, after: int | None = None, limit: int | None = None) -> types_access.AuditResult:
        """The last calls that changed something, or were refused; those after number ``after`` where it is given."""
        return self._run(calls.audit(after, limit))

    def dht_find_peer(self, peer_id: str, timeout: int | None = None) -> types_dht.FoundPeer:
        """Where a peer is, by the DHT. Raises `PeerNotFound`."""
        return self._run(calls.dht_find_peer(peer_id, timeout))

    def dht_find_providers(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        count: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundProviders:
        """Who provides a key: text, unless ``encoding`` says otherwise. ``count`` are enough. Each is a
        ``dht:provider`` event with ``query_id`` when it is found."""
        return self._run(calls.dht_find_providers(key, encoding, count, timeout, query_id))

    def dht_provide(
        self, key: str, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.Provided:
        """Tell others that this node provides a key, now and every twelve hours, until `dht_forget`."""
        return self._run(calls.dht_provide(key, encoding, timeout))

    def dht_get_value(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        quorum: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundValue:
        """The value of a key; ``found`` is false where nobody has one."""
        return self._run(calls.dht_get_value(key, encoding, quorum, timeout, query_id))

    def dht_put_value(
        self, key: str, value: bytes, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.StoredValue:
        """Put a value, now and every twelve hours, until `dht_forget`."""
        return self._run(calls.dht_put_value(key, value, encoding, timeout))

    def dht_forget(self, key: str, encoding: types_dht.KeyEncoding | None = None) -> types_dht.Forgotten:
        """Announce a key, and a value under it, no more."""
        return self._run(calls.dht_forget(key, encoding))

    def dht_status(self) -> types_dht.DhtStatus:
        """How the DHT stands."""
        return self._run(calls.dht_status())

    def announce(
        self, capabilities: Sequence[str], metadata: Mapping[str, Any] | None = None, timeout: int | None = None
    ) -> types_fabstir.Announced:
        """Announce by the Fabstir scheme what this node can do, until `withdraw`."""
        return self._run(calls.announce(capabilities, metadata, timeout))

    def withdraw(self, capabilities: Sequence[str]) -> types_fabstir.Withdrawn:
        """Announce it no more."""
        return self._run(calls.withdraw(capabilities))

    def discover(
        self,
        model: str,
        filters: types_fabstir.DiscoverFilters | None = None,
        force_refresh: bool = False,
        timeout: int | None = None,
    ) -> types_fabstir.Discovered:
        """Nodes that serve a model, the best first; remembered for five minutes, unless ``force_refresh``."""
        return self._run(calls.discover(model, filters, force_refresh, timeout))

    def config(self) -> dict[str, Any]:
        """The daemon's effective configuration, under the keys of its file."""
        return self._run(calls.config())

    def version(self) -> types.VersionResult:
        """Versions, and the protocols that the node speaks."""
        return self._run(calls.version())

    def shutdown(self) -> None:
        """Stop the daemon itself, as SIGTERM does."""
        self._run(calls.shutdown())

    def call(
        self, method: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, bound: float | None = None
    ) -> Any:
        """Any method by name; the result as plain values. ``bound`` is how many seconds to wait for it."""
        return self._run(calls.any_method(method, params, bound))

    def call_raw(
        self, method: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, bound: float | None = None
    ) -> bytes:
        """Any method by name; the result as the JSON that the daemon sent."""
        return bytes(self._run(calls.raw_method(method, params, bound)))

    def events(
        self,
        types: Sequence[str] | None = None,
        after: int | None = None,
        epoch: str | None = None,
        *,
        silence: float = SILENCE,
        patience: float | None = None,
    ) -> EventStream:
        """The events of ``types`` (of all without it), from now on or from after entry ``after`` of run ``epoch``.

        As `fabstir_client.client.Client.events`, but blocking; `EventStream.get` waits for a given time only.
        """
        return EventStream(self._target, types, after, epoch, silence=silence, patience=patience)
