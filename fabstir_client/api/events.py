"""All event types by their names on the wire, collected from the modules of the vocabulary."""

from __future__ import annotations

from fabstir_client.api import dht as types_dht
from fabstir_client.api.types import EVENT_DATA as _NODE
from fabstir_client.api.types import EventData

EVENT_DATA: dict[str, type[EventData]] = {
    **_NODE,
    **{kind.TYPE: kind for kind in types_dht.EVENTS},
}
