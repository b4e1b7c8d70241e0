"""The composition root: which parts exist, the order in which they start, and the reverse order in which they stop.

The IPC endpoint answers first. HTTP's libraries and then libp2p are imported after that, in threads. READY is sent once
the whole API listens; no bootstrap node can delay it.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from fabstir_client.api.types import (
    BootstrapError,
    ConnectionFailed,
    EventData,
    PeerConnected,
    PeerDisconnected,
    PeerIdentified,
    PeerPath,
)
from fabstird import __version__, config, datadir, systemd, tasks
from fabstird.api import activation, api_file, ipc
from fabstird.api.activation import Activated
from fabstird.api.fanout import Fanout
from fabstird.canary import Canary
from fabstird.config import Config
from fabstird.doubts import doubts
from fabstird.events import Entry, EventLog
from fabstird.identity import Identity, IdentityError, load_or_make
from fabstird.log import logger as log
from fabstird.log.lines import SaidLately
from fabstird.metrics.counters import Counters
from fabstird.p2p.node import Node
from fabstird.p2p.node import load as load_libp2p
from fabstird.p2p.peers.book import Book
from fabstird.rpc import jsonrpcserver_adapter as recording
from fabstird.rpc.access import LEVELS
from fabstird.rpc.bridge import Bridge
from fabstird.rpc.dispatch import Dispatcher
from fabstird.rpc.methods.table import METHODS
from fabstird.rpc.services import Services, ipc_group_grant
from fabstird.rpc.tokens import FILE as TOKENS_FILE
from fabstird.rpc.tokens import Tokens
from fabstird.service import Supervised, describe, supervised
from fabstird.signals import Signals
from fabstird.threads import imported

logger = log.get_logger("daemon")

STOPPING = 3.0  # seconds for the node to stop; what has not ended by then is cancelled
DESCRIPTORS = 64  # reserved for the API, files and the process itself
LAST_WORDS = 1.0  # seconds for subscribers to read the events of the stop
ANSWERING = 0.02  # seconds for calls that wait for an event to be answered
TURNS = 20  # turns of the loop that they get at least: on a busy machine those seconds may pass in one
LIVE = (  # keys of [api] that a reload applies
    *("ipc_group_access", "max_tokens", "max_batch", "max_request_values", "max_answer_bytes", "max_calls"),
    *("max_subscriptions", "max_ipc_connections", "max_http_connections", "max_send_queue_bytes", "send_timeout"),
)
ALONE = (BootstrapError, ConnectionFailed)  # events of one bootstrap node that mean the node may be alone
WARNED = 1024  # addresses of which it is remembered that they were logged
# frequent on a busy node, whose log would hold nothing else
QUIET = (PeerConnected, PeerDisconnected, PeerIdentified, PeerPath)


@dataclass(frozen=True, slots=True)
class Launch:
    """How the daemon was started: all that is needed to read its configuration again."""

    config_file: Path | None
    overrides: tuple[str, ...]
    data_dir: Path
    data_dir_given: bool

    def read_config(self) -> Config:
        return config.load(self.config_file, os.environ, self.overrides)


async def run(launch: Launch, settings: Config, signals: Signals) -> None:
    """Run the daemon until it is told to stop.

    Args:
        launch: How it was started.
        settings: The configuration.
        signals: Armed already.

    Raises:
        DataDirError: The data directory cannot be used.
        DataDirInUse: Another daemon holds it.
        IdentityError: The identity file cannot be used.
        BindError: An endpoint cannot listen.
    """
    stopping = trio.Event()
    datadir.prepare(launch.data_dir)
    with datadir.locked(launch.data_dir):
        datadir.sweep(launch.data_dir)
        services = compose(launch, settings, stopping.set)
        node = services.node
        if settings.node.auto_start:
            node.will_start()
        for doubt in doubts(services.config):
            logger.warning("the configuration may not be what is meant", doubt=doubt)
        logger.info("daemon starting", version=__version__, pid=os.getpid(), data_dir=str(launch.data_dir))
        activated = activation.take(services.config.api)
        async with supervised(lambda: describe(node), node.silence, services.canary) as about:
            reload = partial(about.reload, lambda: _reload(launch, services))
            signals.attach(stopping.set, reload, _log_tasks, _log_threads, _log_late)
            async with _api(launch, services, activated) as fanout:
                about.ready()
                await _run_node(node, stopping, about, fanout, signals)
    logger.info("daemon stopped")


def compose(launch: Launch, settings: Config, shutdown: Callable[[], None]) -> Services:
    """Make the parts of the daemon from the data directory; nothing runs yet. Raises `IdentityError`,
    `DataDirError`."""
    settings = _fit_descriptors(settings)
    identity = _identity(launch.data_dir)
    tokens = Tokens(launch.data_dir / TOKENS_FILE, datadir.read_token(launch.data_dir), settings.api.max_tokens)
    tokens.load()
    book = Book(launch.data_dir / "peers.json")
    book.load()
    events, counters = EventLog(settings.events.history, settings.events.max_bytes), Counters()
    events.tap(partial(_log_event, SaidLately(WARNED)))
    node = Node(settings, identity, events, counters, book)
    return Services(
        config=settings,
        events=events,
        counters=counters,
        node=node,
        shutdown=shutdown,
        tokens=tokens,
        bridge=Bridge(node),
        ipc_group=ipc_group_grant(settings.api.ipc_group_access),
        access={method.name: method.needs for method in METHODS},
        canary=Canary(counters.loop_delay.observe),
    )


def _fit_descriptors(settings: Config) -> Config:
    """Raise the limit of file descriptors as far as allowed, and lower the number of connections to fit. A daemon
    without a spare descriptor could not even report it."""
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
    """Lower the limits of each API endpoint, and of streams, to a third of the descriptors that the node leaves."""
    api, streams = settings.api, settings.streams
    room = max(16, (hard - DESCRIPTORS - settings.connections.max) // 3)
    most = max(api.max_ipc_connections, api.max_http_connections, streams.max_open)
    if hard == resource.RLIM_INFINITY or most <= room:
        return settings
    logger.info("connections to the API are fewer, as the limit of file descriptors wants it", limit=hard, max=room)
    ipc_most, http_most = min(api.max_ipc_connections, room), min(api.max_http_connections, room)
    lowered = dataclasses.replace(api, max_ipc_connections=ipc_most, max_http_connections=http_most)
    fewer = dataclasses.replace(streams, max_open=min(streams.max_open, room))
    return dataclasses.replace(settings, api=lowered, streams=fewer)


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
async def _api(launch: Launch, services: Services, activated: Activated) -> AsyncIterator[Fanout]:
    """Serve every endpoint, and keep ``api.json`` while they listen."""
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
        services.http = where
        with api_file.written(launch.data_dir, path, int(api.ipc_mode, 8), msgspec.json.encode(about) + b"\n"):
            logger.info("API ready", ipc=about["ipc"], http=where)
            yield fanout


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
    http = await imported("fabstird.api.http")
    async with http.serving(services, dispatcher, fanout, passed) as where:
        yield where


async def _run_node(node: Node, stopping: trio.Event, about: Supervised, fanout: Fanout, signals: Signals) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.serve)
        nursery.start_soon(_begin, node, nursery)
        await stopping.wait()
        signals.end_within()  # the stop may have come by a call, not by a signal
        about.stopping()
        logger.info("daemon stopping")
        with trio.move_on_after(STOPPING):
            await node.stop("shutdown")
            with trio.move_on_after(LAST_WORDS):
                await fanout.all_sent()
            for _ in range(TURNS):
                await trio.lowlevel.checkpoint()
            await trio.sleep(ANSWERING)
        nursery.cancel_scope.cancel()


async def _begin(node: Node, nursery: trio.Nursery) -> None:
    """Import the node, then what rarely used calls need, while the API already answers, so that a later start is quick
    too. A stop waits for neither. Saved tunnels do not need the node."""
    await load_libp2p()
    nursery.start_soon((await node.shared()).tunnels.serve)
    await trio.to_thread.run_sync(recording.load, abandon_on_cancel=True)


def _reload(launch: Launch, services: Services) -> str:
    """Reload the configuration on SIGHUP, and apply what can change at run time. A wrong configuration changes nothing.
    Returns what is wrong with it."""
    try:
        settings = _fit_descriptors(launch.read_config())
    except config.ConfigError as error:
        logger.error("configuration not reloaded", mistakes=error.mistakes)  # noqa: TRY400
        return f"configuration not reloaded: {'; '.join(error.mistakes)}"
    log.set_level(settings.log.level)
    services.node.set_limits(settings.connections)
    running = services.config
    services.tokens.limit = settings.api.max_tokens
    services.ipc_group.access = LEVELS[settings.api.ipc_group_access]
    api = dataclasses.replace(running.api, **{key: getattr(settings.api, key) for key in LIVE})
    shown = dataclasses.replace(running.log, level=settings.log.level)
    services.adopt(dataclasses.replace(running, connections=settings.connections, api=api, log=shown))
    if wrong := services.node.reload_certificate():
        logger.error("certificate not reloaded", error=wrong)
        return f"certificate not reloaded: {wrong}"
    logger.info("configuration reloaded", applied=["log.level", "connections", *(f"api.{key}" for key in LIVE)])
    return ""


def _log_tasks() -> None:
    logger.warning("task tree", tree=tasks.tree())


def _log_threads() -> None:
    logger.error("the event loop is stuck", threads=tasks.threads())


def _log_late() -> None:
    logger.warning("the stop took too long: what is left is cut off")
    log.finish()


def _log_event(warned: SaidLately, entry: Entry) -> None:
    data: EventData = entry.data
    quiet = isinstance(data, QUIET)
    if quiet and not log.debugging("fabstird.daemon"):
        return
    write = logger.debug if quiet else logger.info
    # Without its bootstrap nodes the node may be alone. The operator should see that once for each address, not be
    # flooded
    if isinstance(data, ALONE) and warned.take((entry.type, data.address), time.monotonic()):
        write = logger.warning
    write(entry.type, seq=entry.seq, **{("kind" if key == "type" else key): v for key, v in data.to_dict().items()})
