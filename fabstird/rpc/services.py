"""What the methods work on: the parts of the daemon, and the views of them that more than one method gives."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass

from fabstir_client.types import Bound, Status
from fabstird import __version__
from fabstird.config import Config
from fabstird.events import EventLog
from fabstird.metrics import Counters, Gauges
from fabstird.p2p.node import Node


@dataclass(slots=True)
class Services:
    """What the methods work on; made once, by `daemon`."""

    config: Config  # in effect: a reload replaces it
    events: EventLog
    counters: Counters
    node: Node
    shutdown: Callable[[], None]

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

    def bounds(self) -> dict[str, Bound]:
        """Everything that is bounded in number."""
        found = {
            **self.node.bounds(),
            "events": (self.events.head + 1 - self.events.oldest, self.config.events.history),
            "fileDescriptors": (len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        }
        return {name: Bound(current, limit) for name, (current, limit) in found.items()}

    def gauges(self) -> Gauges:
        node = self.node
        return Gauges(
            connections=node.connection_count(),
            peers=len(node.peer_ids()),
            started=node.state == "started",
            events_head=self.events.head,
            totals=node.totals(),
        )
