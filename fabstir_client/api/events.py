"""Every type of event by its name on the wire: each module of the vocabulary brings its own."""

from __future__ import annotations

from fabstir_client.api import dht as types_dht
from fabstir_client.api.types import EVENT_DATA as _NODE
from fabstir_client.api.types import EventData

EVENT_DATA: dict[str, type[EventData]] = {
    **_NODE,
    **{kind.TYPE: kind for kind in types_dht.EVENTS},
}
