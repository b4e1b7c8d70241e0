"""fabstird with a method more, `bench.burst`, which publishes events at once: peers do not connect by the thousand in
one turn of the event loop, and only what comes afterwards is measured.

usage: python -m bench.host run …, as fabstird
"""

from __future__ import annotations

import sys

from fabstir_client.api.types import Params, PeerConnected
from fabstird import cli, daemon
from fabstird.rpc.dispatch import Call, Method

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


class BurstParams(Params, frozen=True):
    events: int


def burst(call: Call, params: BurstParams) -> dict[str, int]:
    """Publish so many events, all in this turn."""
    data = PeerConnected(peer_id=PEER, address=f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}", direction="inbound")
    for _ in range(params.events):
        call.services.events.publish(data)
    return {"head": call.services.events.head}


if __name__ == "__main__":
    daemon.METHODS.append(Method("bench.burst", BurstParams, dict[str, int], "Publish events", burst))
    sys.exit(cli.main())
