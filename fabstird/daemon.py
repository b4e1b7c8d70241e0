"""The composition root: what exists, in what order it starts, and the reverse in which it stops.

The IPC endpoint answers first; HTTP's libraries and then libp2p are imported behind it, in threads. READY is told once
the whole API listens; no bootstrap node can delay it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from fabstir_client.errors import FabstirError, ListenFailed
from fabstir_client.types import EventData, PeerConnected, PeerDisconnected, PeerIdentified
from fabstir_client.types_streams import StreamEnded, StreamRequest
from fabstird import __version__, config, datadir, log, systemd, tasks
from fabstird.api import activation, ipc
from fabstird.api.activation import Activated
from fabstird.api.fanout import Fanout
from fabstird.canary import Canary
from fabstird.config import Config
from fabstird.events import Entry, EventLog
from fabstird.identity import Identity, IdentityError, load_or_make
from fabstird.metrics import Counters
from fabstird.p2p.book import Book
from fabstird.p2p.node import Node, load_libp2p
from fabstird.rpc import recording
from fabstird.rpc.access import LEVELS
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.methods import METHODS
from fabstird.rpc.services import Services
from fabstird.rpc.tokens import FILE as TOKENS_FILE
from fabstird.rpc.tokens import Tokens
from fabstird.service import Supervised, describe, supervised
from fabstird.signals import Signals

logger = log.get_logger("daemon")

STOPPING = 3.0  # seconds for the node to stop; what has not ended then is cut
DESCRIPTORS = 64  # that are left to the API, files and the process itself
LAST_WORDS = 0.2  # seconds for subscribers to read the events of the stop
LIVE = (  # keys of [api] that a reload takes over
    *("ipc_group_access", "max_tokens", "max_batch", "max_request_values", "max_answer_bytes", "max_calls"),
    *("max_subscriptions", "max_ipc_connections", "max_http_connections", "max_send_queue_bytes", "send_timeout"),
)
QUIET = (
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
    StreamEnded,
    StreamRequest,
)  # a busy node's log would hold nothing else


@dataclass(frozen=True, slots=True)
class Launch:
    """How the daemon was started: enough to read its configuration again."""

    config_file: Path | None
    overrides: tuple[str, ...]
    data_dir: Path
    data_dir_given: bool

    def read_config(self) -> Config:
        return config.load(self.config_file, os.environ, self.overrides)


async def run(launch: Launch, settings: Config, signals: Signals) -> None:
    """Run the daemon until it is told to stop.

    Raises `DataDirError`, `DataDirInUse`, `IdentityError` and `BindError`, before anything listens or in its place.
    """
    stopping = trio.Event()
    datadir.prepare(launch.data_dir)
    with datadir.locked(launch.data_dir):
        datadir.sweep(launch.data_dir)
        identity = _identity(launch.data_dir)
        tokens = Tokens(
            launch.data_dir / TOKENS_FILE,
            datadir.read_token(launch.data_dir),
            lambda: services.config.api.max_tokens,
        )
        tokens.load()
        book = Book(launch.data_dir / "peers.json")
        book.load()
        settings = _fit_descriptors(settings)
        events, counters = EventLog(settings.events.history), Counters()
        events.tap(_log_event)
        node = Node(settings, identity, events, counters, book)
        services = Services(
            settings,
            events,
            counters,
            node,
            stopping.set,
            tokens,
            {m.name: m.needs for m in METHODS},
            canary=Canary(counters.loop_delay.observe),
        )
        logger.info("daemon starting", version=__version__, pid=os.getpid(), data_dir=str(launch.data_dir))
        activated = activation.take(settings.api)
        async with supervised(lambda: describe(node), node.silence, services.canary) as about:
            reload = partial(about.reload, lambda: _reload(launch, services))
            signals.attach(stopping.set, reload, _log_tasks, _log_threads)
            async with _api(launch, services, activated):
                about.ready()
                await _run_node(node, settings.node.auto_start, stopping, about)
    logger.info("daemon stopped")


def _fit_descriptors(settings: Config) -> Config:
    """Take all the file descriptors that this process may have, and no more connections than they allow: a daemon
    without a descriptor to spare could not even tell anybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = _fit_api(settings, hard)
    connections = settings.connections
    most = max(1, hard - DESCRIPTORS) if hard != resource.RLIM_INFINITY else connections.max
    if connections.max <= most:
        return settings
    logger.warning("connections.max is lowered to what the limit of file descriptors allows", limit=hard, max=most)
    lowered = dataclasses.replace(
        connections, max=most, high_water=min(connections.high_water, most), low_water=min(connections.low_water, most)
    )
    return dataclasses.replace(settings, connections=lowered)


def _fit_api(settings: Config, hard: int) -> Config:
    """Half of what the node leaves for each endpoint of the API, if they would take more."""
    api = settings.api
    room = max(16, (hard - DESCRIPTORS - settings.connections.max) // 2)
    if hard == resource.RLIM_INFINITY or max(api.max_ipc_connections, api.max_http_connections) <= room:
        return settings
    logger.info("connections to the API are fewer, as the limit of file descriptors wants it", limit=hard, max=room)
    ipc_most, http_most = min(api.max_ipc_connections, room), min(api.max_http_connections, room)
    lowered = dataclasses.replace(api, max_ipc_connections=ipc_most, max_http_connections=http_most)
    return dataclasses.replace(settings, api=lowered)


def _identity(data_dir: Path) -> Identity:
    path = data_dir / "identity.key"
    if (credential := systemd.credential(path.name)) is not None:
        try:
            identity = load_or_make(credential)
        except IdentityError as error:
            raise IdentityError(f"{error}; `systemctl cat fabstird` says where the credential comes from") from error
        if path.exists() and load_or_make(path) != identity:
            logger.warning("the identity is a credential; the data directory's is not used", file=str(path))
        return identity
    identity = load_or_make(path)
    if datadir.others_may_read(path):
        logger.warning("the identity file can be read by others", file=str(path), cure=f"chmod 600 {path}")
    return identity


@asynccontextmanager
async def _api(launch: Launch, services: Services, activated: Activated) -> AsyncIterator[None]:
    """Every endpoint, and ``api.json`` for as long as they listen."""
    api = services.config.api
    dispatcher = Dispatcher(METHODS)
    path = datadir.locate_ipc(api.ipc, launch.data_dir, data_dir_given=launch.data_dir_given)
    if activated.ipc is not None:
        path = Path(activated.ipc.where)
    async with (
        Fanout.running(services.events, services.config.events.heartbeat / 1000) as fanout,
        services.bridge.running(api.bridge),
        _ipc(path, services, dispatcher, fanout, activated.ipc),
        _http(services, dispatcher, fanout, activated.http) as where,
    ):
        if path is None and where is None:
            logger.warning("the API is switched off: [api] ipc and http are both empty")
        about = {"pid": os.getpid(), "epoch": services.events.epoch, "version": __version__}
        about |= {"ipc": str(path) if path else None, "http": where}
        file = launch.data_dir / "api.json"
        try:
            datadir.write_whole(file, msgspec.json.encode(about) + b"\n")
        except OSError as error:
            raise datadir.DataDirError(f"{file}: {error.strerror}") from error
        logger.info("API ready", ipc=about["ipc"], http=where)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@asynccontextmanager
async def _ipc(
    path: Path | None, services: Services, dispatcher: Dispatcher, fanout: Fanout, passed: systemd.Passed | None
) -> AsyncIterator[None]:
    if path is None:
        yield
        return
    sock = passed.socket if passed is not None else None
    async with ipc.serving(path, int(services.config.api.ipc_mode, 8), services, dispatcher, fanout, sock):
        yield


@asynccontextmanager
async def _http(
    services: Services, dispatcher: Dispatcher, fanout: Fanout, passed: systemd.Passed | None
) -> AsyncIterator[str | None]:
    if not services.config.api.http:
        yield None
        return
    http = await trio.to_thread.run_sync(importlib.import_module, "fabstird.api.http")
    async with http.serving(services, dispatcher, fanout, passed) as where:
        yield where


async def _run_node(node: Node, auto_start: bool, stopping: trio.Event, about: Supervised) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        nursery.start_soon(_begin, node, auto_start)
        await stopping.wait()
        about.stopping()
        logger.info("daemon stopping")
        with trio.move_on_after(STOPPING):
            await node.stop("shutdown")
            await trio.sleep(LAST_WORDS)
        nursery.cancel_scope.cancel()


async def _begin(node: Node, auto_start: bool) -> None:
    """Import what calls may need, and libp2p, behind the API's back, so that a later start is quick too; start the node
    if it is to be."""
    await trio.to_thread.run_sync(recording.load)
    await load_libp2p()
    if auto_start:
        try:
            await node.start()
        except ListenFailed:
            pass  # the node has said so; a corrected start works
        except FabstirError as error:
            logger.error("the node did not start; correct the cause and call start", error=str(error))  # noqa: TRY400


def _reload(launch: Launch, services: Services) -> str:
    """SIGHUP: take over what can change while running; a wrong configuration changes nothing. Returns what is wrong."""
    try:
        settings = _fit_descriptors(launch.read_config())
    except config.ConfigError as error:
        logger.error("configuration not reloaded", mistakes=error.mistakes)  # noqa: TRY400
        return f"configuration not reloaded: {'; '.join(error.mistakes)}"
    log.set_level(settings.log.level)
    services.node.set_limits(settings.connections)
    running = services.config
    services.ipc_group.access = LEVELS[settings.api.ipc_group_access]
    services.config = dataclasses.replace(
        running,
        connections=settings.connections,
        api=dataclasses.replace(running.api, **{key: getattr(settings.api, key) for key in LIVE}),
        log=dataclasses.replace(running.log, level=settings.log.level),
    )
    logger.info("configuration reloaded", applied=["log.level", "connections", *(f"api.{key}" for key in LIVE)])
    return ""


def _log_tasks() -> None:
    logger.warning("task tree", tree=tasks.tree())


def _log_threads() -> None:
    logger.error("the event loop is stuck", threads=tasks.threads())


def _log_event(entry: Entry) -> None:
    data: EventData = entry.data
    quiet = isinstance(data, QUIET)
    if quiet and not log.debugging("fabstird.daemon"):
        return
    write = logger.debug if quiet else logger.info
    write(entry.type, seq=entry.seq, **{("kind" if key == "type" else key): v for key, v in data.to_dict().items()})
