"""What the methods work on: the parts of the daemon, and views of them that several methods return."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from fabstir_client.api.access import Access
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.api.types import Bound, Metrics, Status
from fabstird import __version__
from fabstird.canary import Canary
from fabstird.config import Config
from fabstird.events import EventLog
from fabstird.metrics.counters import Counters, Gauges, Readers
from fabstird.p2p.node import Node
from fabstird.rpc.access import LEVELS, Grant
from fabstird.rpc.audit import KEPT as AUDIT_KEPT
from fabstird.rpc.audit import Audit
from fabstird.rpc.bridge import Bridge
from fabstird.rpc.limits import Usage
from fabstird.rpc.tokens import Tokens
from fabstird.rpc.ui_codes import UiCodes
from fabstird.rpc.waits import MOST as MAX_WAITS
from fabstird.rpc.waits import Waits

_KEYS = {"send_failed": "sendFailed"}  # labels of metrics, as they are spelled in results


def ipc_group_grant(level: str) -> Grant:
    """The grant of members of the IPC socket's group. ``level`` is ``[api] ipc_group_access``."""
    return Grant(
        LEVELS[level],
        "the group of the IPC socket",
        cure="call as the user that runs the daemon or as root, or set [api] ipc_group_access",
    )


@dataclass(slots=True)
class Services:
    """What the methods work on; made once, by `daemon`."""

    config: Config  # the current one: a reload replaces it
    events: EventLog
    counters: Counters
    node: Node
    shutdown: Callable[[], None]
    tokens: Tokens
    bridge: Bridge
    ipc_group: Grant  # of members of the IPC socket's group; a reload changes it
    access: Mapping[str, Access] = field(default_factory=dict)  # the level that each method needs
    canary: Canary = field(default_factory=Canary)
    audit: Audit = field(default_factory=Audit)
    usage: Usage = field(default_factory=Usage)
    ui_codes: UiCodes = field(default_factory=UiCodes)
    waits: Waits = field(default_factory=Waits)
    # for work that blocks the loop for milliseconds: one piece in a turn
    heavy: trio.Lock = field(default_factory=trio.Lock)
    http: str | None = None  # the address of HTTP, while it is served

    def __post_init__(self) -> None:
        self.usage.fit(self.config.api)

    def adopt(self, config: Config) -> None:
        """Use a new configuration from now on."""
        self.config = config
        self.usage.fit(config.api)

    def status(self) -> Status:
        """The current status. It waits for nothing, so that a snapshot is of one instant."""
        node = self.node
        return Status(
            state=node.state,
            connected=node.state == "started",
            peer_id=node.identity.peer_id,
            connections=node.view.connection_count(),
            peers=node.view.peer_count(),
            bootstrap_nodes=list(node.settings.bootstrap_nodes),
            listen_addresses=node.view.listen_addresses(),
            version=__version__,
            epoch=self.events.epoch,
            head=self.events.head,
            start_time=node.view.started_at,
            uptime=node.view.uptime,
            error=node.error,
        )

    def metrics(self) -> Metrics:
        """All counters, and the current state."""
        node, counters = self.node, self.counters
        totals = node.totals()
        ids = node.view.peer_ids()
        return Metrics(
            connected=node.state == "started",
            peer_id=node.identity.peer_id,
            connections=node.view.connection_count(),
            total_peers=len(ids),
            connected_peers=ids,
            listen_addresses=node.view.listen_addresses(),
            bootstrap_nodes=list(node.settings.bootstrap_nodes),
            failed_connections=counters.failed_connections,
            successful_connections=counters.successful_connections,
            inbound_connections=counters.inbound_connections,
            outbound_connections=counters.outbound_connections,
            retries=counters.retries,
            handshakes_failed=totals.handshakes_failed,
            refused_connections=totals.refused_connections,
            throttled_connections=totals.throttled_connections,
            stream_errors=totals.stream_errors,
            caught=dict(node.fence.caught),
            events_published=self.events.head,
            bytes_received=totals.bytes_received,
            bytes_sent=totals.bytes_sent,
            streams=node.streams(),
            bounds=self.bounds(),
            mdns={_KEYS.get(kind, kind): count for kind, count in counters.mdns.items()},
            start_time=node.view.started_at,
            uptime=node.view.uptime,
        )

    def bounds(self) -> dict[str, Bound]:
        """Every number that is bounded."""
        return {name: Bound(current, limit) for name, (current, limit) in self._bounds().items()}

    def _bounds(self) -> dict[str, tuple[int, int]]:
        api, usage = self.config.api, self.usage
        return {
            **self.node.bounds(),
            "auditEntries": (len(self.audit), AUDIT_KEPT),
            "events": (self.events.head + 1 - self.events.oldest, self.config.events.history),
            "eventBytes": (self.events.size, self.config.events.max_bytes),
            "tokens": (len(self.tokens), api.max_tokens),
            "ipcConnections": (usage.ipc, api.max_ipc_connections),
            "httpConnections": (usage.http, api.max_http_connections),
            "calls": (usage.calls(), api.max_calls),
            "waitingCalls": (self.waits.held, MAX_WAITS),
            "callBytes": (usage.memory.used, usage.memory.most),
            "unsentBytes": (usage.unsent.size, int(usage.unsent.most)),
            "subscriptions": (usage.subscriptions(), api.max_subscriptions),
            "sendQueueBytes": (usage.waiting(), api.max_send_queue_bytes),
            "fileDescriptors": (len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        }

    def gauges(self) -> Gauges:
        node, events = self.node, self.events
        return Gauges(
            version=__version__,
            connections=node.view.connection_count(),
            peers=node.view.peer_count(),
            started=node.state == "started",
            events_head=events.head,
            totals=node.totals(),
            events={name: events.emitted[name] for name in EVENT_DATA},
            subscribers={
                name: sum(reader.types is None or name in reader.types for reader in events.readers)
                for name in EVENT_DATA
            },
            readers={transport: self._readers(transport) for transport in ("ipc", "ws")},
            caught=node.fence.caught,
            lagged=events.lagged,
            missed=events.missed,
            cycles=node.view.dial_cycles(),
            bounds=self._bounds(),
            protocols=len(node.view.protocols()),
            announced=len(node.view.announced_addresses()),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            streams=(node.streams().open, node.streams().waiting),
            stream_bytes=node.stream_bytes(),
        )

    def _readers(self, transport: str) -> Readers:
        events = self.events
        behind = max((events.head - one.after for one in events.readers if one.name == transport), default=0)
        return Readers(behind, behind >= events.capacity, events.sent[transport])
