"""Every type of event by its name on the wire: each module of the vocabulary brings its own."""

from __future__ import annotations

from fabstir_client import types_dht, types_streams
from fabstir_client.types import EVENT_DATA as _NODE
from fabstir_client.types import EventData

EVENT_DATA: dict[str, type[EventData]] = {
    **_NODE,
    **{kind.TYPE: kind for kind in (*types_streams.EVENTS, *types_dht.EVENTS)},
}
