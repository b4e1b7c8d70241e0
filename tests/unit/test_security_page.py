"""docs/security.md: the tests, keys and bounds that it names exist, and its numbers are those of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from fabstird.config import Config
from fabstird.p2p import budget
from fabstird.p2p.dht import lookup, routing
from fabstird.p2p.host import ping
from fabstird.p2p.muxer import writer, yamux
from fabstird.p2p.nat import autonat_service, dcutr, dial_back_policy, direct, punching
from fabstird.p2p.nat.portmap import igd, router
from fabstird.p2p.net import inbound
from fabstird.p2p.security import certificate, keys, tls
from fabstird.p2p.streams import ledger
from fabstird.p2p.wire import multistream

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
MIB = 1024 * 1024
CONFIG = msgspec.to_builtins(Config())
V1, V2 = dial_back_policy.VERSION_1, dial_back_policy.VERSION_2


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(
        r"`((?:unit|functional|faults|interop|conformance|network|traps)/test_\w+\.py)(?:::(\w+))?`", PAGE
    )
    assert len(named) > 70
    missing = [
        (file, name)
        for file, name in named
        if not (path := ROOT / "tests" / file).exists()
        or (name and not re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE))
    ]
    assert missing == []


def test_every_promise_and_every_fault_names_its_test() -> None:
    promises, faults = rows("A stranger on the network"), rows("What was once possible")
    assert len(promises) >= 19
    assert len(faults) >= 20
    without = [row for row in promises + faults if "/test_" not in row[-1]]
    assert without == []


def test_every_key_that_is_named_exists() -> None:
    named = re.findall(r"`\[(\w+)\] (\w+)`", PAGE)
    assert len(named) >= 8
    assert [(section, key) for section, key in named if key not in CONFIG[section]] == []
    known = {key for section in CONFIG.values() for key in section}
    alone = set(re.findall(r"`((?:max|handshake)_\w+|history)`", PAGE))
    assert alone
    assert alone - known == set()


def test_every_bound_that_is_named_is_shown_by_metrics() -> None:
    examples = json.loads((ROOT / "fabstird" / "rpc" / "examples.json").read_text())
    shown = set(re.findall(r'"(\w+)": \{\s*"current"', json.dumps(examples)))
    named = set(re.findall(r"`((?:dht|unread)\w*Bytes)`", PAGE))
    assert len(named) >= 4
    assert named - shown == set()


@pytest.mark.parametrize(
    "words",
    [
        f"{budget.OF_CONNECTION // MIB} MiB a connection, {budget.OF_IP // MIB} MiB an IP address, "
        f"{budget.OF_PROCESS // MIB} MiB the process",
        f"encoded keys over {keys.MAX_ENCODED / 1024:.1f} KiB are refused",
        f"one certificate of at most {certificate.MAX_CERTIFICATE // 1024} KiB",
        f"{tls.MAX_HANDSHAKE // 1024} KiB of a peer until it has shown who it is",
        f"{multistream.MAX_LINES} lines and {multistream.MAX_BYTES // 1024} KiB a negotiation",
        f"{yamux.MAX_STREAMS} streams a connection, handlers included, and {ping.AT_ONCE} of a peer for pings",
        f"{yamux.MAX_CONTROL // 1024} KiB of control frames wait; {writer.MAX_PONGS} pongs wait",
        f"at most {routing.PER_BUCKET} peers of a network in a bucket, {routing.PER_NETWORK} in the table, "
        f"{lookup.PER_NETWORK} in a lookup's front",
        f"{inbound.INTRODUCTIONS} connections of proxies that say nothing",
        f"{direct.ADDRESSES} of a peer, once a connection, {direct.AT_ONCE} peers at a time",
        f"holes at {dcutr.ADDRESSES} addresses of a peer, {('never', 'once', 'twice', 'three times')[punching.TRIES]} "
        f"a relayed connection, {punching.AT_ONCE} at a time",
        f"a failure is told after {autonat_service.DIAL:.0f} s",
        f"{V1.peer} or {V2.peer} questions of a peer a minute, {V1.address} or {V2.address} of an IP address, "
        f"{V1.network} or {V2.network} of its network, {V1.all} or {V2.all} in all, {V2.at_once} at once, "
        f"{V2.address_at_once} of them of an IP address and {V2.network_at_once} of its network",
        f"for who has opened fewer than {ledger.FEW}",
        f"{dial_back_policy.DIAL_DATA} a minute lead elsewhere",
        f"{router.MAX_STRAYS} that are no answer end the question",
        f"an answer has {igd.MAX_BODY // 1024} KiB and {igd.HTTP:.0f} s",
    ],
)
def test_the_numbers_are_the_codes(words: str) -> None:
    assert words in PAGE
