"""The node of a scripted daemon: a state, peers and an event log, without a network. It is checked against the OpenRPC
document."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fabstir_client.api.errors import DeadlineExceeded, InvalidParams, PeerNotFound
from fabstir_client.testing import document
from fabstir_client.testing.document import Json

OWN = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
PEER = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
LISTENS = "/ip4/127.0.0.1/tcp/4001"


class ScriptedNode:
    """``state`` is the result of `status`, ``peers`` that of `peers`, ``log`` the events."""

    held = True  # to the OpenRPC document

    def __init__(self) -> None:
        self.peer_id = OWN
        self.state = "started"
        self.peers: list[Json] = []
        self.log: list[Json] = []
        self.epoch = ""
        self.oldest = 1  # the first event that is still kept
        self.changed = threading.Condition(threading.RLock())
        self.ending = False  # waiting calls must give up
        self.by_itself: dict[str, Callable[[Json], Any]] = {  # answers without a script
            "status": lambda params: self.status(),
            "start": self._start,
            "stop": self._stop,
            "peers": lambda params: self.peer_records(),
            "connect": self._connect,
            "disconnect": self._disconnect,
            "wait": self._wait,
            "events": self._events,
        }
        self._config: Json = {}

    # -- what a test says

    def publish(self, kind: str, /, **data: Any) -> int:
        """Publish an event, with its data under the names on the wire; returns its number. Raises `NotAsDocumented`."""
        with self.changed:
            entry = {"epoch": self.epoch, "seq": self.head + 1, "time": self.now(), "type": kind, "data": data}
            if self.held:
                document.hold_event(entry)
            self.log.append(entry)
            self.published(entry)
            self.changed.notify_all()
            return self.head

    def connect_peer(
        self, peer_id: str = PEER, *, address: str | None = None, direction: str = "inbound", **more: Any
    ) -> int:
        """Connect a peer: it is added to ``peers``, with the given fields, and `peer:connect` is published."""
        with self.changed:
            peer = self.peer(peer_id, address, direction) | more
            self.peers.append(peer)
            return self.publish(
                "peer:connect", peerId=peer_id, address=peer["connections"][0]["address"], direction=direction
            )

    def disconnect_peer(self, peer_id: str = PEER, *, reason: str = "closed_by_peer") -> int:
        """Disconnect a peer."""
        with self.changed:
            [peer] = [one for one in self.peers if one["peerId"] == peer_id]
            self.peers.remove(peer)
            duration = self.now() - peer["connectedAt"]
            return self.publish("peer:disconnect", peerId=peer_id, reason=reason, duration=duration)

    def forget(self, seq: int) -> None:
        """Drop events up to this one: a reader that asks for them is told that they are missing."""
        self.oldest = seq + 1

    # -- what it says of itself

    @property
    def head(self) -> int:
        return len(self.log)

    def status(self) -> Json:
        addresses = [f"{one}/p2p/{self.peer_id}" for one in self._config.get("listenAddresses") or [LISTENS]]
        return {
            "state": self.state,
            "connected": self.state == "started",
            "peerId": self.peer_id,
            "connections": len(self.peers),
            "peers": len(self.peers),
            "bootstrapNodes": self._config.get("bootstrapNodes") or [],
            "listenAddresses": addresses if self.state == "started" else [],
            "version": document.document()["info"]["version"],
            "epoch": self.epoch,
            "head": self.head,
        }

    def peer(self, peer_id: str = PEER, address: str | None = None, direction: str = "inbound") -> Json:
        """One entry of ``peers()``."""
        address = address or f"/ip4/192.0.2.7/tcp/4001/p2p/{peer_id}"
        connection = {"address": address, "direction": direction, "openedAt": self.now(), "transport": "tcp"}
        connection |= {"security": "noise", "muxer": "yamux", "streams": 0}
        return {
            "peerId": peer_id,
            "direction": direction,
            "connectedAt": self.now(),
            "addresses": [address],
            "connections": [connection],
            "protocols": [],
            "tags": {},
            "protected": False,
            "bootstrap": False,
        }

    def published(self, entry: Json) -> None:
        """Publish an entry under the lock, so that every reader sees the same order."""

    def peer_records(self) -> list[Json]:
        return list(self.peers)

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    # -- what it does when it is asked

    def _start(self, params: Json) -> Json:
        with self.changed:
            if self.state != "started":
                self.state, self._config = "started", params.get("config") or {}
                self.publish("p2p:started", peerId=self.peer_id, listenAddresses=self.status()["listenAddresses"])
            return self.status()

    def _stop(self, params: Json) -> Json:
        with self.changed:
            if self.state == "started":
                for peer in self.peer_records():
                    self.disconnect_peer(peer["peerId"], reason="stopped")
                self.state = "stopped"
                self.publish("p2p:stopped", peerId=self.peer_id)
            return self.status()

    def _connect(self, params: Json) -> Json:
        address = params["address"]
        peer_id = address.rpartition("/p2p/")[2]
        if not peer_id.startswith(("12D3", "Qm")):
            raise InvalidParams(f"{address} names no peer", param="address")
        with self.changed:
            already = any(one["peerId"] == peer_id for one in self.peer_records())
            if not already:
                self.connect_peer(peer_id, address=address if "/" in address else None, direction="outbound")
            [one] = [one for one in self.peer_records() if one["peerId"] == peer_id]
            told = {"peerId": peer_id, "address": one["addresses"][0], "direction": one["direction"]}
            return told | {"alreadyConnected": already}

    def _disconnect(self, params: Json) -> Json:
        peer_id = params["peerId"]
        with self.changed:
            if not any(one["peerId"] == peer_id for one in self.peer_records()):
                raise PeerNotFound(f"{peer_id} is not connected", peerId=peer_id)
            self.disconnect_peer(peer_id, reason="closed")
            return {"peerId": peer_id, "closed": 1}

    def _wait(self, params: Json) -> Json:
        def holds() -> bool:
            there = {one["peerId"]: one["protocols"] for one in self.peer_records()}
            asked = [there.get(params["peerId"])] if params.get("peerId") else list(there.values())
            return all(
                (
                    params.get("state") in (None, self.state),
                    len(there) >= (params.get("peers") or 0),
                    not params.get("peerId") or params["peerId"] in there,
                    not params.get("protocol") or any(params["protocol"] in (one or ()) for one in asked),
                )
            )

        with self.changed:
            if not self.changed.wait_for(lambda: self.ending or holds(), params["timeout"] / 1000) or not holds():
                raise DeadlineExceeded("the conditions did not hold in time", timeout=params["timeout"])
            return {"status": self.status(), "peers": self.peer_records()}

    def _events(self, params: Json) -> Json:
        kinds = params.get("types")

        def found() -> list[Json]:
            entries = self.log[max(after, self.oldest - 1) :]
            return [one for one in entries if kinds is None or one["type"] in kinds][: params.get("limit") or 100]

        with self.changed:
            after, gap = self.beginning(params, otherwise=self.oldest - 1)
            patience = (params.get("timeout") or 0) / 1000
            self.changed.wait_for(lambda: self.ending or bool(found()) or gap is not None, patience)
            missed = 0 if gap is None else gap["missed"]
            return {"epoch": self.epoch, "head": self.head, "events": found(), "missed": missed}

    def beginning(self, params: Json, otherwise: int) -> tuple[int, Json | None]:
        """The event after which to begin, and what is missing before it."""
        after, epoch = params.get("after"), params.get("epoch")
        if epoch is not None and epoch != self.epoch:
            return self.head, {"missed": None, "resume": self.head + 1}
        if after is None:
            return otherwise, None
        if after > self.head:
            raise InvalidParams(f"after is {after}, but the newest event is {self.head}", param="after", head=self.head)
        if after + 1 < self.oldest:
            return self.oldest - 1, {"missed": self.oldest - 1 - after, "resume": self.oldest}
        return after, None
