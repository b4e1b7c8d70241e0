"""The messages of AutoNAT version 2 (libp2p specification, autonat/autonat-v2), which py-libp2p does not have: declared
here for protobuf's own runtime. Read, they are plain values, and whatever was missing is 0 or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from fabstird.p2p.wire.frames import Undecodable, frame

DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"
MAX_MESSAGE = 8192  # bytes; as go-libp2p
MAX_DIAL_BACK = 1024
PIECE = 4096  # bytes of dial data in one message
MOST_DATA = 100_000  # bytes that a server may ask for; a handshake costs 10,000 or less
LEAST_DATA = 30_000


class Status(IntEnum):
    """Of an answer: whether an address was dialled at all."""

    INTERNAL_ERROR = 0
    REQUEST_REJECTED = 100
    DIAL_REFUSED = 101
    OK = 200


class Dialled(IntEnum):
    """Of an address: how the dial went."""

    UNUSED = 0
    DIAL_ERROR = 100
    DIAL_BACK_ERROR = 101
    OK = 200


_FIELDS: dict[str, list[tuple[str, int, int, int]]] = {
    "DialRequest": [
        ("addrs", 1, Field.TYPE_BYTES, Field.LABEL_REPEATED),
        ("nonce", 2, Field.TYPE_FIXED64, Field.LABEL_OPTIONAL),
    ],
    # Enums are numbers here: a status that is not known is an answer to be passed over, and no broken message
    "DialResponse": [
        ("status", 1, Field.TYPE_INT32, Field.LABEL_OPTIONAL),
        ("addrIdx", 2, Field.TYPE_UINT32, Field.LABEL_OPTIONAL),
        ("dialStatus", 3, Field.TYPE_INT32, Field.LABEL_OPTIONAL),
    ],
    "DialDataRequest": [
        ("addrIdx", 1, Field.TYPE_UINT32, Field.LABEL_OPTIONAL),
        ("numBytes", 2, Field.TYPE_UINT64, Field.LABEL_OPTIONAL),
    ],
    "DialDataResponse": [("data", 1, Field.TYPE_BYTES, Field.LABEL_OPTIONAL)],
    "DialBack": [("nonce", 1, Field.TYPE_FIXED64, Field.LABEL_OPTIONAL)],
}
_PARTS = {1: "DialRequest", 2: "DialResponse", 3: "DialDataRequest", 4: "DialDataResponse"}  # of Message, one of them


def _declared() -> dict[str, Any]:
    """The message classes, by name."""
    package = "fabstird.autonat2"
    file = FileDescriptorProto(name="fabstird/autonat2.proto", package=package, syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            message.field.add(name=field, number=number, type=kind, label=label)
    whole = file.message_type.add(name="Message")
    for number, name in _PARTS.items():
        whole.field.add(
            name=name,
            number=number,
            type=Field.TYPE_MESSAGE,
            type_name=f".{package}.{name}",
            label=Field.LABEL_OPTIONAL,
        )
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in (*_FIELDS, "Message")}


_CLASSES = _declared()


@dataclass(frozen=True, slots=True)
class DialRequest:
    """The addresses, those first that matter most, and what a dial back has to bring along."""

    addresses: Sequence[bytes]
    nonce: int


@dataclass(frozen=True, slots=True)
class DialResponse:
    """``index`` is the place of the address that was dialled; ``dialled`` one of `Dialled`, ``status`` of `Status`."""

    status: int
    index: int = 0
    dialled: int = 0


@dataclass(frozen=True, slots=True)
class DialDataRequest:
    """Bytes that are to come before the address in this place is dialled."""

    index: int
    size: int


@dataclass(frozen=True, slots=True)
class DialDataResponse:
    data: bytes


Message = DialRequest | DialResponse | DialDataRequest | DialDataResponse


def encode(message: Message) -> bytes:
    """With its length before it."""
    whole = _CLASSES["Message"]()
    if isinstance(message, DialRequest):
        whole.DialRequest.addrs.extend(message.addresses)
        whole.DialRequest.nonce = message.nonce
        whole.DialRequest.SetInParent()
    elif isinstance(message, DialResponse):
        whole.DialResponse.status = message.status
        whole.DialResponse.addrIdx = message.index
        whole.DialResponse.dialStatus = message.dialled
        whole.DialResponse.SetInParent()
    elif isinstance(message, DialDataRequest):
        whole.DialDataRequest.addrIdx = message.index
        whole.DialDataRequest.numBytes = message.size
        whole.DialDataRequest.SetInParent()
    else:
        whole.DialDataResponse.data = message.data
        whole.DialDataResponse.SetInParent()
    return frame(whole.SerializeToString(), "uvarint")


def decode(data: bytes) -> Message:
    """A message without its length. Raises `Undecodable`."""
    whole = _parsed("Message", data)
    if whole.HasField("DialRequest"):
        return DialRequest(tuple(whole.DialRequest.addrs), whole.DialRequest.nonce)
    if whole.HasField("DialResponse"):
        return DialResponse(whole.DialResponse.status, whole.DialResponse.addrIdx, whole.DialResponse.dialStatus)
    if whole.HasField("DialDataRequest"):
        return DialDataRequest(whole.DialDataRequest.addrIdx, whole.DialDataRequest.numBytes)
    if whole.HasField("DialDataResponse"):
        return DialDataResponse(whole.DialDataResponse.data)
    raise Undecodable("the message has nothing in it")


def encode_dial_back(nonce: int) -> bytes:
    """With its length before it."""
    return frame(_CLASSES["DialBack"](nonce=nonce).SerializeToString(), "uvarint")


def decode_dial_back(data: bytes) -> int:
    """The nonce. Raises `Undecodable`."""
    return int(_parsed("DialBack", data).nonce)


DIAL_BACK_TAKEN = frame(b"", "uvarint")  # DialBackResponse with its one status, which is 0


def _parsed(name: str, data: bytes) -> Any:
    message = _CLASSES[name]()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Undecodable(f"the message cannot be decoded: {error}") from error
    return message
