"""The base of the vocabulary: records, parameters, and types that several areas share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec


def words(*names: str) -> msgspec.Meta:
    """A set of words, listed in the OpenRPC document. Clients also accept other words, because a later daemon may know
    more."""
    return msgspec.Meta(extra_json_schema={"enum": list(names)})


Direction = Literal["inbound", "outbound"]
NodeState = Literal["stopped", "starting", "started", "stopping", "failed"]
EndReason = Annotated[
    str,
    words(
        "closed_by_peer",
        "closed",
        "reset",
        "timeout",
        "dead",
        "trimmed",
        "banned",
        "limit",
        "stopped",
        "shutdown",
        "error",
        "duplicate",
    ),
]
# Plain values in Python; the OpenRPC document has the full schemas.
EventType = Annotated[str, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/EventType"})]
AnyEvent = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/Event"})]
Overrides = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/NodeOverrides"})]


class Record(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A result or the data of an event.

    Fields are attributes (``status.peer_id``). They can also be read as items by their names on the wire
    (``status["peerId"]``), as in JSON.
    """

    def __getitem__(self, name: str) -> Any:
        for field in msgspec.structs.fields(type(self)):
            if name in (field.encode_name, field.name):
                value = getattr(self, field.name)
                if value is None and field.default is None:
                    break
                return value
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The field with this wire name or Python name, or ``default`` if it is missing."""
        try:
            return self[name]
        except KeyError:
            return default

    def to_dict(self) -> dict[str, Any]:
        """The record as it is sent: camelCase keys, plain values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Params(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    """Parameters of a method; the order of the fields is the order of positional parameters.

    ``PAYLOADS`` lists, by their names on the wire, the parameters that carry users' data of any length. Texts in all
    other parameters are bounded.
    """

    PAYLOADS: ClassVar[tuple[str, ...]] = ()


class EventData(Record, frozen=True):
    """Data of one type of event; ``TYPE`` is the type's name on the wire."""

    TYPE: ClassVar[str]
