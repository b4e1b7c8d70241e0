"""Parts of libp2p without the whole of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fabstird.p2p.security.keys import NodeKey
from fabstird.p2p.wire.partial import parts_of

NODE = """
import sys
import fabstird.p2p.run
heavy = {"libp2p", "dns", "aioquic", "httpx", "requests", "multicodec", "nacl", "Crypto", "coincurve"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""

# What the API needs for its first answer (docs/adr/0006-late-imports.md)
API = """
import sys
import fabstird.daemon, fabstird.api.ipc, fabstird.rpc.methods.table
rooms = {"dht", "host", "messaging", "muxer", "nat", "net", "quic", "run", "security", "transport", "tunnels"}
heavy = {"google", "h11", "hypercorn", "jsonschema", "libp2p", "noise", "OpenSSL", "quart", "wsproto", "zeroconf"}
ours = {name.split(".")[2] for name in sys.modules if name.startswith("fabstird.p2p.")}
print(sorted(rooms & ours), sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""

# A program that only calls asks for no page
HTTP = """
import sys
import fabstird.daemon, fabstird.api.http
heavy = {"quart", "quart_trio", "flask", "werkzeug", "jinja2", "click", "prometheus_client"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""

WHOLE = """
from fabstird.p2p.wire.protobuf import Envelope, Identify
import libp2p
from libp2p import new_host
from libp2p.identity.identify.pb import identify_pb2
from libp2p.peer.pb import envelope_pb2
print(identify_pb2.Identify is Identify, envelope_pb2.Envelope is Envelope, libp2p.host.__file__ is not None)
"""

# structlog imports it where it is there
RICH = """
import sys
import fabstird.daemon, fabstird.api.http
had = "rich" in sys.modules
import rich.traceback
print(had)
"""

# A process that has libp2p already, whole, as the tests of its traps have
BEFORE = """
import libp2p, sys
before = sys.modules["libp2p"]
from fabstird.p2p.wire.protobuf import Identify
print(sys.modules["libp2p"] is before, "libp2p.peer.id" in sys.modules)
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(API, "[] []"), (HTTP, "[]"), (NODE, "[]"), (WHOLE, "True True True"), (BEFORE, "True True"), (RICH, "False")],
    ids=["api", "http", "node", "whole", "before", "rich"],
)
def test_a_node_imports_the_messages_alone_and_nobody_else_is_kept_from_the_rest(program: str, printed: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ran.stdout.strip() == printed


def test_a_package_that_is_not_there_leaves_nothing_behind() -> None:
    before = set(sys.modules)
    with pytest.raises(ModuleNotFoundError, match="nobody_has_this"), parts_of("nobody_has_this"):
        pass
    with pytest.raises(ModuleNotFoundError, match=r"idlelib\.nobody"), parts_of("idlelib", "idlelib.nobody"):
        pass
    assert set(sys.modules) == before


def test_our_signed_record_is_one_that_py_libp2p_reads() -> None:
    from libp2p.peer.envelope import consume_envelope

    key = NodeKey(bytes(32))
    addresses = (b"\x04\x08\x08\x08\x08\x06\x0f\xa1", b"\x04\x7f\0\0\1\x06\x0f\xa1")
    first, second = (consume_envelope(key.sign_addresses(addresses), "libp2p-peer-record")[1] for _ in range(2))
    assert str(first.peer_id) == key.peer_id
    assert tuple(address.to_bytes() for address in first.addrs) == addresses
    assert second.seq > first.seq
