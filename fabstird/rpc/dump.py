"""``debug.dump``: a zip file with what helps to diagnose a problem.

It is returned to the caller, not written to a file: a hardened service can write only where its caller cannot read. Its
content is gathered at one instant, in the event loop; packing is done in a thread.
"""

from __future__ import annotations

import importlib.metadata
import io
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fabstir_client.api.types import BanRecord
from fabstird import __version__, tasks
from fabstird.events import Entry
from fabstird.log import logger as log
from fabstird.rpc.services import Services

EVENTS = 1000  # newest entries of the event log
PACKAGES = (
    "libp2p",
    "trio",
    "quart",
    "quart-trio",
    "hypercorn",
    "jsonrpcserver",
    "msgspec",
    "structlog",
    "cryptography",
    "multiaddr",
    "fastecdsa",
    "prometheus-client",
)

README = """\
A dump of fabstird {version}, peer {peer}, made {instant} UTC.
No key, no token and no payload is in it. Peer ids, addresses and the configuration are: look before you publish it.

about.json      versions, machine, process
config.json     the configuration in effect
status.json     state of the node          addresses.json  where it listens, what it announces
peers.json      connected peers            metrics.json    counters and bounds
bans.json       bans in force              metrics.txt     the same and more, as Prometheus reads it
log.jsonl       the newest lines of the log, oldest first
events.jsonl    the newest events, oldest first
tasks.txt       the task tree: what each task waits for
threads.txt     the stack of each thread
"""


def gather(services: Services, bans: list[BanRecord], exposition: Callable[[], bytes]) -> dict[str, bytes]:
    """The names and contents of the files, as of now."""
    node, events = services.node, services.events
    newest = events.read(max(events.oldest - 1, events.head - EVENTS))
    instant = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    readme = README.format(version=__version__, peer=node.identity.peer_id, instant=instant)
    threads = "\n\n".join("\n".join([name, *stack]) for name, stack in tasks.threads().items())
    return {
        "README": readme.encode(),
        "about.json": _json(_about(services)),
        "config.json": _json(services.config.to_dict()),
        "status.json": _json(services.status()),
        "addresses.json": _json(node.view.addresses()),
        "peers.json": _json(node.view.peers()),
        "bans.json": _json(bans),
        "metrics.json": _json(services.metrics()),
        "metrics.txt": exposition(),
        "log.jsonl": "".join(f"{line}\n" for line in log.memory.lines()).encode(),
        "events.jsonl": b"".join(b"{" + entry.body + b"}\n" for entry in newest if isinstance(entry, Entry)),
        "tasks.txt": "".join(f"{line}\n" for line in tasks.tree()).encode(),
        "threads.txt": f"{threads}\n".encode(),
    }


def pack(files: Mapping[str, bytes], folder: str) -> bytes:
    """A zip file with one folder. This takes tens of milliseconds."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{folder}/{name}", content)
    return packed.getvalue()


def _about(services: Services) -> dict[str, Any]:
    level, loggers = log.levels()
    return {
        "version": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "packages": {name: _version_of(name) for name in PACKAGES},
        "epoch": services.events.epoch,
        "head": services.events.head,
        "time": int(time.time() * 1000),
        "logLevel": level,
        "logLevels": loggers,
        "loopDelay": {"last": services.canary.last, "max": services.canary.max},
    }


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
