"""The asynchronous client, for trio and asyncio."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import anyio
from anyio.abc import TaskGroup

from fabstir_client import calls, types, types_access, types_debug, types_dht, types_fabstir, types_streams
from fabstir_client.cursor import SILENCE
from fabstir_client.discovery import StrPath, Target
from fabstir_client.errors import ClientTimeout, ConnectionLost, FabstirError
from fabstir_client.link import Link
from fabstir_client.protocol import Call, Pending, Session, T
from fabstir_client.stream import EventStream


def connect(*, api: str | None = None, data_dir: StrPath | None = None, token: str | None = None) -> Client:
    """A client, to be used as ``async with connect() as client``.

    ``api`` is ``ipc:/path`` or ``http://host:port``; without it the daemon is looked for in ``data_dir`` if that is
    given, else where FABSTIR_API says, else in the usual places. ``token`` is for http; without it FABSTIR_TOKEN,
    FABSTIR_TOKEN_FILE and the data directory are asked.

    Entering raises `DaemonUnreachable` where no daemon answers, `Forbidden` where it refuses the token, and
    `InvalidConfig` where a setting is wrong.
    """
    return Client(Target(api, data_dir, token))


class _Connection:
    """A link and the calls in flight on it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.session: Session[anyio.Event] = Session()
        self.lost = False

    async def read(self) -> None:
        """Settle calls as their answers come, until the connection ends."""
        try:
            while not self.lost:
                self._settle(await self.link.receive())
        except FabstirError as error:
            self._end(error)
        finally:
            self._end(ConnectionLost("the client was closed"))

    def usable(self) -> bool:
        """Whether it can carry a call: what has come, its end included, is taken in first."""
        if not self.lost:
            try:
                self._settle(self.link.receive_now())
            except FabstirError as error:
                self._end(error)
        return not self.lost

    def _settle(self, messages: list[bytes]) -> None:
        for message in messages:
            settled = self.session.receive(message)
            if isinstance(settled, Pending):
                settled.waiter.set()

    def _end(self, error: FabstirError) -> None:
        if not self.lost:
            self.lost = True
            self.link.close()
            for pending in self.session.fail(error):
                pending.waiter.set()


class Client:
    """The methods of the daemon (CONTRACT, section 4), any number of them in flight at a time.

    Every method may raise the daemon's own errors (`RpcError`), `ConnectionLost` where the connection ended before the
    answer came (the daemon may or may not have done it), `ClientTimeout` where no answer came in time, and
    `DaemonUnreachable`: a call after the connection was lost connects anew, once.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tasks: TaskGroup | None = None
        self._connection: _Connection | None = None
        self._connecting = anyio.Lock()
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    async def __aenter__(self) -> Client:
        if self._tasks is not None:
            raise RuntimeError("this client is in use already")
        link = await Link.open(self._target)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._adopt(link)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tasks, self._tasks = self._tasks, None
        connection, self._connection = self._connection, None
        if tasks is None:
            raise RuntimeError("this client is not in use")
        for stream in list(self._streams):
            stream.close()
        if connection is not None:
            connection.link.close()
        tasks.cancel_scope.cancel()
        try:
            return await tasks.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            # What the body raised must reach its caller as it is, not wrapped by a task group that is our own affair.
            if error is not None and group.exceptions == (error,):
                return False
            raise

    def _adopt(self, link: Link) -> _Connection:
        if self._tasks is None:
            link.close()
            raise RuntimeError("this client is used outside of its `async with`")
        self._connection = _Connection(link)
        self._tasks.start_soon(self._connection.read, name=f"fabstir_client reader of {link.endpoint}")
        return self._connection

    async def _connected(self) -> _Connection:
        if self._tasks is None:
            raise RuntimeError("this client is used outside of its `async with`")
        if self._connection is not None and self._connection.usable():
            return self._connection
        async with self._connecting:
            # Somebody else may have reconnected while we waited for our turn.
            if self._connection is not None and self._connection.usable():
                return self._connection
            return self._adopt(await Link.open(self._target))

    async def _run(self, call: Call[T]) -> T:
        pending: Pending[anyio.Event] | None = None
        connection = await self._connected()
        try:
            with anyio.fail_after(call.bound):
                pending, request = connection.session.begin(call, anyio.Event())
                with contextlib.suppress(ConnectionLost):
                    # The reader settles the call then, with what the daemon may have said before it closed.
                    await connection.link.send(request)
                await pending.waiter.wait()
        except TimeoutError:
            raise ClientTimeout(f"the daemon did not answer {call.method} within {call.bound:g} s") from None
        finally:
            if pending is not None:
                connection.session.forget(pending)
        return call.read(pending.take())

    async def start(self, config: calls.Config | None = None) -> types.Status:
        """Start the node; ``config`` overrides keys of ``[node]`` for this run, in camelCase or snake_case.

        Idempotent, and never waits for a dial. Raises `InvalidState` where it runs already with another configuration,
        `ListenFailed`, and `InvalidConfig` for a key or a type that is none of ``[node]``'s.
        """
        return await self._run(calls.start(config))

    async def stop(self) -> types.Status:
        """Stop the node; idempotent. The daemon stays, and `start` works again."""
        return await self._run(calls.stop())

    async def status(self) -> types.Status:
        """The state of the node and of the event log."""
        return await self._run(calls.status())

    async def peers(self) -> list[types.Peer]:
        """The connected peers."""
        return await self._run(calls.peers())

    async def addresses(self) -> types.Addresses:
        """Where the node listens, what it announces, and what others say they see."""
        return await self._run(calls.addresses())

    async def metrics(self) -> types.Metrics:
        """Counters, since the daemon started."""
        return await self._run(calls.metrics())

    async def connect(self, address: str, timeout: int | None = None) -> types.ConnectResult:
        """Connect to a multiaddr with ``/p2p/``, or to a peer id whose addresses are known; ``timeout`` in ms.

        Raises `DialFailed`, `DeadlineExceeded`, `PeerNotFound`, `InvalidParams` or `NodeNotRunning`.
        """
        return await self._run(calls.connect(address, timeout))

    async def disconnect(self, peer_id: str) -> types.DisconnectResult:
        """Close all connections to a peer. Raises `PeerNotFound` where there is none."""
        return await self._run(calls.disconnect(peer_id))

    async def ping(self, peer_id: str, timeout: int | None = None) -> types.PingResult:
        """Measure the round trip to a connected peer, in ms; ``timeout`` in ms."""
        return await self._run(calls.ping(peer_id, timeout))

    async def explain(self, target: str) -> types.Explanation:
        """Why a peer is connected, or is not: everything known of a peer id or an address."""
        return await self._run(calls.explain(target))

    async def keep(self, address: str) -> types.KeepResult:
        """Stay connected to an address, across restarts of the daemon."""
        return await self._run(calls.keep(address))

    async def forget(self, target: str) -> types.ForgetResult:
        """No longer keep an address, or any address of a peer; a connection stays."""
        return await self._run(calls.forget(target))

    async def ban(self, target: str, duration: int | None = None, reason: str | None = None) -> types.BanResult:
        """Keep out a peer id, an IP address or a network, for ``duration`` ms or for good."""
        return await self._run(calls.ban(target, duration, reason))

    async def unban(self, target: str) -> types.UnbanResult:
        """Lift a ban."""
        return await self._run(calls.unban(target))

    async def bans(self) -> list[types.BanRecord]:
        """The bans in force."""
        return await self._run(calls.bans())

    async def tag(self, peer_id: str, tag: str, value: int) -> types.PeerTags:
        """Give a peer a tag; trimming spares peers whose tags add up to more."""
        return await self._run(calls.tag(peer_id, tag, value))

    async def untag(self, peer_id: str, tag: str) -> types.PeerTags:
        """Take a tag from a peer."""
        return await self._run(calls.untag(peer_id, tag))

    async def protect(self, peer_id: str) -> types.PeerTags:
        """Never trim a peer."""
        return await self._run(calls.protect(peer_id))

    async def unprotect(self, peer_id: str) -> types.PeerTags:
        """A peer may be trimmed again."""
        return await self._run(calls.unprotect(peer_id))

    async def request(
        self,
        peer_id: str,
        protocol: str,
        data: bytes,
        framing: types_streams.Framing | None = None,
        timeout: int | None = None,
    ) -> types_streams.RequestResult:
        """Send one message to a peer on a protocol and read one back; both are framed by ``framing`` (default
        ``uvarint``). ``timeout`` in ms. The answer's bytes are ``base64.b64decode(result.data)``."""
        return await self._run(calls.request(peer_id, protocol, data, framing, timeout))

    async def handle_protocol(
        self, protocol: str, framing: types_streams.Framing | None = None, deadline: int | None = None
    ) -> types_streams.HandleResult:
        """Let peers' requests on a protocol become ``stream:request`` events, for as long as this client's connection
        is open: after one was lost, call this again. Each is to be answered by `respond` within ``deadline`` ms."""
        return await self._run(calls.handle_protocol(protocol, framing, deadline))

    async def unhandle_protocol(self, protocol: str) -> types_streams.UnhandleResult:
        """No longer; requests that wait are reset."""
        return await self._run(calls.unhandle_protocol(protocol))

    async def read_request(self, request_id: str) -> types_streams.ReadResult:
        """A request that waits, whole: its event carries only small ones."""
        return await self._run(calls.read_request(request_id))

    async def respond(self, request_id: str, data: bytes) -> types_streams.RespondResult:
        """Answer a request. Raises `InvalidState` where it does not wait any more."""
        return await self._run(calls.respond(request_id, data))

    async def task_tree(self) -> types_debug.TaskTree:
        """What every task of the daemon waits for."""
        return await self._run(calls.task_tree())

    async def dump(self) -> types_debug.Dump:
        """A zip file with what helps to find out what is wrong, as bytes."""
        return await self._run(calls.dump())

    async def log_level(self, logger: str | None = None, level: str | None = None) -> types_debug.LogLevels:
        """Change the level of the daemon's log, or of one logger; without a level, only tell."""
        return await self._run(calls.log_level(logger, level))

    async def token_create(
        self,
        name: str,
        access: types_access.Access,
        methods: Sequence[str] | None = None,
        expires_in: int | None = None,
    ) -> types_access.TokenCreated:
        """Make a token for HTTP and WebSocket: for ``methods`` only where they are given, good for ``expires_in`` ms
        or until it is revoked. It is told this once."""
        return await self._run(calls.token_create(name, access, methods, expires_in))

    async def token_list(self) -> list[types_access.TokenRecord]:
        """The tokens that there are, without the tokens themselves."""
        return await self._run(calls.token_list())

    async def token_revoke(self, name: str) -> types_access.TokenRevoked:
        """End a token, at once, on open connections too."""
        return await self._run(calls.token_revoke(name))

    async def audit(self, after: int | None = None, limit: int | None = None) -> types_access.AuditResult:
        """The last calls that changed something, or were refused; those after number ``after`` where it is given."""
        return await self._run(calls.audit(after, limit))

    async def dht_find_peer(self, peer_id: str, timeout: int | None = None) -> types_dht.FoundPeer:
        """Where a peer is, by the DHT. Raises `PeerNotFound`."""
        return await self._run(calls.dht_find_peer(peer_id, timeout))

    async def dht_find_providers(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        count: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundProviders:
        """Who provides a key: text, unless ``encoding`` says otherwise. ``count`` are enough. Each is a
        ``dht:provider`` event with ``query_id`` when it is found."""
        return await self._run(calls.dht_find_providers(key, encoding, count, timeout, query_id))

    async def dht_provide(
        self, key: str, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.Provided:
        """Tell others that this node provides a key, now and every twelve hours, until `dht_forget`."""
        return await self._run(calls.dht_provide(key, encoding, timeout))

    async def dht_get_value(
        self,
        key: str,
        encoding: types_dht.KeyEncoding | None = None,
        quorum: int | None = None,
        timeout: int | None = None,
        query_id: str | None = None,
    ) -> types_dht.FoundValue:
        """The value of a key; ``found`` is false where nobody has one."""
        return await self._run(calls.dht_get_value(key, encoding, quorum, timeout, query_id))

    async def dht_put_value(
        self, key: str, value: bytes, encoding: types_dht.KeyEncoding | None = None, timeout: int | None = None
    ) -> types_dht.StoredValue:
        """Put a value, now and every twelve hours, until `dht_forget`."""
        return await self._run(calls.dht_put_value(key, value, encoding, timeout))

    async def dht_forget(self, key: str, encoding: types_dht.KeyEncoding | None = None) -> types_dht.Forgotten:
        """Announce a key, and a value under it, no more."""
        return await self._run(calls.dht_forget(key, encoding))

    async def dht_status(self) -> types_dht.DhtStatus:
        """How the DHT stands."""
        return await self._run(calls.dht_status())

    async def announce(
        self, capabilities: Sequence[str], metadata: Mapping[str, Any] | None = None, timeout: int | None = None
    ) -> types_fabstir.Announced:
        """Announce by the Fabstir scheme what this node can do, until `withdraw`."""
        return await self._run(calls.announce(capabilities, metadata, timeout))

    async def withdraw(self, capabilities: Sequence[str]) -> types_fabstir.Withdrawn:
        """Announce it no more."""
        return await self._run(calls.withdraw(capabilities))

    async def discover(
        self,
        model: str,
        filters: types_fabstir.DiscoverFilters | None = None,
        force_refresh: bool = False,
        timeout: int | None = None,
    ) -> types_fabstir.Discovered:
        """Nodes that serve a model, the best first; remembered for five minutes, unless ``force_refresh``."""
        return await self._run(calls.discover(model, filters, force_refresh, timeout))

    async def config(self) -> dict[str, Any]:
        """The daemon's effective configuration, under the keys of its file."""
        return await self._run(calls.config())

    async def version(self) -> types.VersionResult:
        """Versions, and the protocols that the node speaks."""
        return await self._run(calls.version())

    async def shutdown(self) -> None:
        """Stop the daemon itself, as SIGTERM does."""
        await self._run(calls.shutdown())

    async def call(
        self, method: str, params: Mapping[str, Any] | Sequence[Any] | None = None, *, bound: float | None = None
    ) -> Any:
        """Any method by name; the result as plain values. ``bound`` is how many seconds to wait for it."""
        return await self._run(calls.any_method(method, params, bound))

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

        Iterates over `Event` and, where some were missed, `Lagged`. It has a connection of its own, and goes on after
        the daemon was restarted; it gives up with `DaemonUnreachable` only where ``patience``, in seconds, is given and
        no daemon came back in that time. Without ``after``, "now" is the first step of the iteration, or the moment of
        entering ``async with client.events(…) as stream``.
        """
        stream = EventStream(self._target, types, after, epoch, silence=silence, patience=patience)
        self._streams.add(stream)
        return stream
