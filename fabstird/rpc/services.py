"""What the methods work on: the parts of the daemon, and the views of them that more than one method gives."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from fabstir_client.types import Bound, Metrics, Status
from fabstir_client.types_access import Access
from fabstir_client.types_events import EVENT_DATA
from fabstird import __version__
from fabstird.canary import Canary
from fabstird.config import Config
from fabstird.events import EventLog
from fabstird.metrics import Counters, Gauges, Readers
from fabstird.p2p.node import Node
from fabstird.rpc.access import LEVELS, Grant
from fabstird.rpc.audit import KEPT as AUDIT_KEPT
from fabstird.rpc.audit import Audit
from fabstird.rpc.bridge import Bridge
from fabstird.rpc.tokens import Tokens
from fabstird.rpc.usage import Usage


@dataclass(slots=True)
class Services:
    """What the methods work on; made once, by `daemon`."""

    config: Config  # in effect: a reload replaces it
    events: EventLog
    counters: Counters
    node: Node
    shutdown: Callable[[], None]
    tokens: Tokens
    access: Mapping[str, Access] = field(default_factory=dict)  # what each method needs
    canary: Canary = field(default_factory=Canary)
    audit: Audit = field(default_factory=Audit)
    usage: Usage = field(default_factory=Usage)
    bridge: Bridge = field(init=False)
    ipc_group: Grant = field(init=False)  # of the members of the IPC socket's group; a reload changes it

    def __post_init__(self) -> None:
        self.bridge = Bridge(self.node, self.events)
        self.ipc_group = Grant(
            LEVELS[self.config.api.ipc_group_access],
            "the group of the IPC socket",
            cure="call as the user that runs the daemon or as root, or set [api] ipc_group_access",
        )

    def status(self) -> Status:
        """How things stand at this instant. Waits for nothing, so that a snapshot is one instant's."""
        node = self.node
        return Status(
            state=node.state,
            connected=node.state == "started",
            peer_id=node.identity.peer_id,
            connections=node.connection_count(),
            peers=len(node.peer_ids()),
            bootstrap_nodes=list(node.settings.bootstrap_nodes),
            listen_addresses=node.listen_addresses(),
            version=__version__,
            epoch=self.events.epoch,
            head=self.events.head,
            start_time=node.started_at,
            uptime=node.uptime,
            error=node.error,
        )

    def metrics(self) -> Metrics:
        """What was counted, and how things stand."""
        node, counters = self.node, self.counters
        totals = node.totals()
        ids = node.peer_ids()
        return Metrics(
            connected=node.state == "started",
            peer_id=node.identity.peer_id,
            connections=node.connection_count(),
            total_peers=len(ids),
            connected_peers=ids,
            listen_addresses=node.listen_addresses(),
            bootstrap_nodes=list(node.settings.bootstrap_nodes),
            failed_connections=counters.failed_connections,
            successful_connections=counters.successful_connections,
            inbound_connections=counters.inbound_connections,
            outbound_connections=counters.outbound_connections,
            retries=counters.retries,
            handshakes_failed=totals.handshakes_failed,
            refused_connections=totals.refused_connections,
            stream_errors=totals.stream_errors,
            events_published=self.events.head,
            bytes_received=totals.bytes_received,
            bytes_sent=totals.bytes_sent,
            bounds=self.bounds(),
            mdns=dict(counters.mdns),
            start_time=node.started_at,
            uptime=node.uptime,
        )

    def bounds(self) -> dict[str, Bound]:
        """Everything that is bounded in number."""
        return {name: Bound(current, limit) for name, (current, limit) in self._bounds().items()}

    def _bounds(self) -> dict[str, tuple[int, int]]:
        api, usage = self.config.api, self.usage
        return {
            **self.node.bounds(),
            "auditEntries": (len(self.audit), AUDIT_KEPT),
            "events": (self.events.head + 1 - self.events.oldest, self.config.events.history),
            "tokens": (len(self.tokens), api.max_tokens),
            "ipcConnections": (usage.ipc, api.max_ipc_connections),
            "httpConnections": (usage.http, api.max_http_connections),
            "calls": (usage.calls(), api.max_calls),
            "subscriptions": (usage.subscriptions(), api.max_subscriptions),
            "sendQueueBytes": (usage.waiting(), api.max_send_queue_bytes),
            "fileDescriptors": (len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        }

    def gauges(self) -> Gauges:
        node, events = self.node, self.events
        return Gauges(
            version=__version__,
            connections=node.connection_count(),
            peers=len(node.peer_ids()),
            started=node.state == "started",
            events_head=events.head,
            totals=node.totals(),
            events={name: events.emitted[name] for name in EVENT_DATA},
            subscribers={
                name: sum(reader.types is None or name in reader.types for reader in events.readers)
                for name in EVENT_DATA
            },
            readers={transport: self._readers(transport) for transport in ("ipc", "ws")},
            lagged=events.lagged,
            missed=events.missed,
            cycles=node.dial_cycles(),
            bounds=self._bounds(),
            protocols=len(node.protocols()),
            announced=len(node.announced_addresses()),
            tasks=trio.lowlevel.current_statistics().tasks_living,
        )

    def _readers(self, transport: str) -> Readers:
        events = self.events
        behind = max((events.head - one.after for one in events.readers if one.name == transport), default=0)
        return Readers(behind, behind >= events.capacity, events.sent[transport])
