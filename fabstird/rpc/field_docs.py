"""Descriptions of the vocabulary's fields: the comment after or above each field, otherwise the glossary's.

The comment on a field is its description, so readers of the code and of the OpenRPC document see one text (docs/adr).
Comments are read from the source, once, when the document is first requested.
"""

from __future__ import annotations

import ast
import inspect
import io
import sys
import tokenize
from functools import cache
from types import ModuleType

import msgspec

# Each name means the same everywhere. A comment on a field overrides the text here.
GLOSSARY = {
    "address": "multiaddr",
    "addresses": "multiaddrs",
    "agentVersion": "the software that the peer says it runs",
    "announced": "what is announced to other peers",
    "attempts": "number of dials begun in this cycle",
    "bootstrap": "whether it is one of the bootstrap nodes",
    "bootstrapNodes": "the bootstrap nodes in effect, as multiaddrs",
    "cidr": "a network, such as 192.0.2.0/24",
    "code": "the symbolic code",
    "connected": "whether the node is started, with peers or without",
    "connectedPeers": "peer ids",
    "connections": "how many connections are open",
    "delay": "ms",
    "direction": "which side dialled",
    "duration": "ms",
    "epoch": "identifies the daemon's run; event numbers can only be compared within one run",
    "error": "the error in words",
    "head": "number of the newest event",
    "ip": "an IP address",
    "key": "which one",
    "kind": "its kind",
    "lastError": "of the last dial, in words",
    "libp2p": "version of py-libp2p",
    "limit": "the most that is allowed",
    "listenAddresses": "where the node listens, as multiaddrs with real ports and /p2p/<peer id>",
    "message": "in words",
    "muxer": "its protocol, such as /yamux/1.0.0",
    "name": "which one",
    "peerId": "a peer's id: base58btc text, such as 12D3KooW…",
    "peers": "how many peers are connected",
    "protected": "whether it is never trimmed, whatever its tags",
    "protocol": "protocol id, such as /ipfs/ping/1.0.0",
    "protocolVersion": "the protocol family that the peer says it belongs to",
    "protocols": "protocol ids that it answers",
    "python": "version of the Python that runs the daemon",
    "reason": "in words",
    "security": "its protocol, such as /noise",
    "seq": "number of the event; rises by one",
    "startTime": "when the node was started, in ms since the Unix epoch; left out while it is not started",
    "state": "of the node",
    "streamId": "identifies a stream",
    "streams": "number of open streams",
    "subscription": "its name, valid on its connection",
    "tag": "any text that says what the value is for",
    "tags": "values by tag; trimming spares peers with high sums",
    "target": "the peer, address or network that it is about",
    "time": "ms since the Unix epoch",
    "timeout": "the longest that the call may take, in ms; [node] request_timeout if left out",
    "token": "the token itself",
    "transport": "tcp, ws, …",
    "tunnelId": "identifies a tunnel",
    "type": "which one",
    "uptime": "ms since startTime, measured by a monotonic clock",
    "version": "of fabstird",
}


def fields(cls: type) -> dict[str, str]:
    """The description of each field of a struct, by its name on the wire; "" for a field without one."""
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(cls):
        owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
        comment = _comments(sys.modules[owner.__module__]).get((owner.__name__, field.name))
        found[field.encode_name] = comment or GLOSSARY.get(field.encode_name, "")
    return found


def text(described: object) -> str:
    """The docstring in Markdown, one line for each paragraph; "" where there is none."""
    own = described.__dict__.get("__doc__") if isinstance(described, type) else described.__doc__
    paragraphs = inspect.cleandoc(own or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("``", "`")


@cache
def _comments(module: ModuleType) -> dict[tuple[str, str], str]:
    """The comment on the line of each annotated field, or above it, by class and field."""
    source = inspect.getsource(module)
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            kind = alone if token.line.lstrip().startswith("#") else behind
            kind[token.start[0]] = token.string.lstrip("# ").strip().replace("``", "`")
    return {
        (cls.name, line.target.id): behind.get(line.end_lineno or 0) or _above(line.lineno, alone)
        for cls in ast.parse(source).body
        if isinstance(cls, ast.ClassDef)
        for line in cls.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _above(row: int, alone: dict[int, str]) -> str:
    """The comment lines right above a row, joined; "" where there are none."""
    first = row
    while first - 1 in alone:
        first -= 1
    return " ".join(alone[at] for at in range(first, row))
