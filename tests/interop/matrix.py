"""What `docs/interop.md` is made of: the matrix of transports, implementations and directions with what is known to
fail, the features and the tests that show them, the known limits; and the document's form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.interop.peers import IMPLEMENTATIONS

TRANSPORTS = ("tcp", "ws", "quic-v1")
DIALLERS = ("daemon", "peer")
ASPECTS = ("dial", "identify", "ping", "echo", "close", "kill")


class Cell(NamedTuple):
    transport: str
    implementation: str
    dialler: str
    aspect: str


@dataclass(frozen=True)
class Cause:
    """Why cells fail, and where: file and line of the library whose doing it is."""

    words: str
    where: str


CELLS = [
    Cell(transport, implementation, dialler, aspect)
    for transport in TRANSPORTS
    for implementation in IMPLEMENTATIONS
    for dialler in DIALLERS
    for aspect in ASPECTS
]
KNOWN: dict[Cell, Cause] = {}


@dataclass(frozen=True)
class Feature:
    """What tests of one module in `tests/interop` show. For each implementation of ``by``, a cell is all of them."""

    name: str
    module: str
    tests: tuple[str, ...]
    by: tuple[str, ...] = IMPLEMENTATIONS


class FeatureCell(NamedTuple):
    feature: str
    implementation: str


FEATURES = (
    Feature(
        "TLS: dialled by either, 1 MiB both ways",
        "test_tls",
        ("test_the_daemon_dials_a_peer_that_speaks_tls", "test_a_peer_that_speaks_tls_dials_the_daemon"),
    ),
    Feature(
        "DHT: the peer finds what the daemon provides", "test_dht", ("test_the_daemon_provides_and_the_peer_finds_it",)
    ),
    Feature(
        "DHT: the daemon finds what the peer provides", "test_dht", ("test_the_peer_provides_and_the_daemon_finds_it",)
    ),
    Feature("DHT: values put and got, both ways", "test_dht", ("test_values_both_ways",)),
    Feature("DHT: a third peer looked up, both ways", "test_dht", ("test_a_third_one_is_found_both_ways",)),
    Feature("DHT: a client is not taken for a server", "test_dht", ("test_a_client_is_not_taken_for_a_server",)),
    Feature("Streams: each side ends by itself, half-close", "test_streams", ("test_each_side_ends_by_itself",)),
    Feature("Streams: a reset is told as one", "test_streams", ("test_a_reset_is_told_to_the_other_side",)),
    Feature("Streams: 16 MiB both ways at once", "test_streams", ("test_sixteen_mebibytes_both_ways_at_once",)),
    Feature("Streams: what nobody reads is not sent", "test_streams", ("test_what_nobody_reads_is_not_sent",)),
    Feature("Streams: 200 at once", "test_streams", ("test_two_hundred_streams_at_once",)),
    Feature("Streams: `/perf/1.0.0`", "test_streams", ("test_perf_measures_in_both_directions",)),
    Feature(
        "mDNS: each sees the other, whoever comes later",
        "test_mdns",
        ("test_a_peer_that_comes_later_sees_and_is_seen", "test_a_daemon_that_comes_later_sees_and_is_seen"),
    ),
    Feature("mDNS: switched off, the daemon is not seen", "test_mdns", ("test_switched_off_it_is_not_seen",)),
    Feature(
        "Relay v2: a daemon behind a NAT is reached through it",
        "test_reachability",
        ("test_a_daemon_behind_a_nat_is_reached_through_a_relay",),
        ("go",),
    ),
    Feature(
        "Relay v2: its end and its limits are told, and it is used again",
        "test_reachability",
        ("test_the_relay_s_end_ends_what_it_carries", "test_a_relay_s_limit_is_told_as_the_reason"),
        ("go",),
    ),
    Feature(
        "Relay v2: the daemon is the relay of a peer behind a NAT, and of a daemon there",
        "test_reachability",
        (
            "test_go_behind_a_nat_is_reached_through_a_daemon",
            "test_a_daemon_behind_a_nat_is_reached_by_go_through_a_daemon",
        ),
        ("go",),
    ),
    Feature(
        "Connection reversal: a peer that came by a relay is dialled back, and becomes direct",
        "test_reachability",
        ("test_who_comes_through_the_relay_and_can_be_reached_is_dialled_back",),
        ("go",),
    ),
    Feature(
        "Hole punching (DCUtR, TCP and QUIC): two nodes behind NATs become direct, whoever has called",
        "test_reachability",
        (
            "test_a_peer_punches_a_hole_to_a_daemon_that_it_has_called",
            "test_a_daemon_punches_a_hole_to_a_peer_that_it_has_called",
        ),
        ("go", "rust"),
    ),
    Feature(
        "AutoNAT: reachable once several servers have dialled back",
        "test_reachability",
        ("test_an_address_is_reachable_when_several_servers_have_dialled_it",),
        ("go",),
    ),
    Feature(
        "AutoNAT, versions 1 and 2: a peer learns from daemons how it can be reached",
        "test_reachability",
        ("test_go_learns_from_daemons_how_it_stands",),
        ("go",),
    ),
    Feature(
        "AutoNAT, version 2: asked and answered",
        "test_reachability",
        ("test_rust_asks_a_daemon_and_a_daemon_asks_rust",),
        ("rust",),
    ),
    Feature(
        "AutoNAT, version 2, which js-libp2p has from 3 on: asked and answered",
        "test_reachability",
        ("test_js_asks_a_daemon_and_a_daemon_asks_js",),
        ("js",),
    ),
    Feature(
        "AutoNAT, version 1: a peer asks, and is not asked, since it would close the connection",
        "test_reachability",
        ("test_js_asks_a_daemon_which_does_not_ask_it",),
        ("js",),
    ),
    Feature(
        "AutoNAT: a daemon that nobody gets through to asks for a relay",
        "test_reachability",
        ("test_a_daemon_that_finds_itself_behind_a_nat_asks_a_bootstrap_node_to_relay",),
        ("go",),
    ),
    Feature(
        "Fabstir: `discover` finds the records that a rust and a js peer put",
        "test_dht",
        ("test_discover_finds_what_a_fabstir_node_and_a_js_peer_put_there",),
        ("js", "rust"),
    ),
    Feature(
        "Fabstir node: known for what it is, and as another one after its restart",
        "test_fabstir_node",
        ("test_it_is_known_for_what_it_is", "test_a_node_comes_back_as_somebody_else"),
        ("rust",),
    ),
    Feature(
        "Fabstir node: a job claimed, both ways",
        "test_fabstir_node",
        ("test_a_job_is_claimed_both_ways", "test_what_a_node_does_not_answer_is_an_error_that_says_so"),
        ("rust",),
    ),
    Feature(
        "Fabstir node: connected past its idle limit, of 6 s and of 120 s",
        "test_fabstir_node",
        (
            "test_it_stays_connected_past_a_short_idle_limit",
            "test_left_alone_it_closes_the_connection",
            "test_it_stays_connected_past_the_real_idle_limit",
        ),
        ("rust",),
    ),
    Feature(
        "Fabstir node: from a model to a claimed job, both ways",
        "test_fabstir_node",
        ("test_the_whole_way_from_a_model_to_a_claimed_job_both_ways",),
        ("rust",),
    ),
)
FEATURE_CELLS = [FeatureCell(feature.name, name) for feature in FEATURES for name in feature.by]


def shown_by(module: str, test: str, implementation: str | None) -> list[FeatureCell]:
    """The cells that a test is part of; ``implementation`` is the one it is run with, None where it has its own."""
    return [
        FeatureCell(feature.name, name)
        for feature in FEATURES
        if feature.module == module and test in feature.tests
        for name in feature.by
        if implementation in (None, name)
    ]


LIMITS = (
    Cause(
        "rust does not answer ADD_PROVIDER, as the specification has it, so the daemon asks afterwards who provides; "
        "but rust leaves out whoever asks, and `confirmed` of `dht.provide` is 0 where only rust was told",
        "[ADR 17](adr/0017-own-dht.md); `libp2p-kad` 0.46.2, `src/behaviour.rs:1211`",
    ),
    Cause(
        "js takes a provider's key only where it is a multihash: it refuses the Fabstir node's raw `capability:…` and "
        "takes the SDK's hashed key",
        "[README](../tests/interop/README.md); `@libp2p/kad-dht/dist/src/rpc/handlers/add-provider.js:24`",
    ),
    Cause(
        "go as it comes refuses values whose key has no namespace that it knows, such as `metadata:…`; the go peer of "
        "these tests is told to take any",
        "`go-libp2p-record` 0.3.1, `validator.go:57`; `anything` in `tests/interop/go/node.go`",
    ),
    Cause(
        "rust leaves it to the program whom to add to its routing table; here the tests do that",
        "`know` in `tests/interop/test_dht.py`",
    ),
    Cause(
        "A program on rust reads a reset stream to its end and gets no error; only a write on it fails",
        "[README](../tests/interop/README.md); `yamux` 0.12 and 0.13, `src/connection/stream.rs`",
    ),
    Cause(
        "Where a NAT is symmetric, two peers behind NATs stay relayed",
        "[ADR 28](adr/0028-hole-punching.md)",
    ),
    Cause(
        "When holes are punched over QUIC with rust from 0.54 on, both sides dial, where the specification lets one "
        "dial and the other send random datagrams; so there may be two direct connections",
        "`libp2p-quic` 0.11.1, `src/transport.rs:276`: a dial as listener that reuses its port",
    ),
    Cause(
        "QUIC is off by default, and slower than TCP: its engine is Python",
        "[ADR 32](adr/0032-quic.md)",
    ),
    Cause(
        "A clean close may look like a reset: go closes TCP with RST, and so does js where bytes lie unread",
        "[README](../tests/interop/README.md); `go-libp2p` 0.51, `p2p/transport/tcp/tcp.go:281`; "
        "`@libp2p/tcp/dist/src/socket-to-conn.js`",
    ),
)

HEAD = """\
# Interop: the daemon and other implementations of libp2p

Generated by `make interop` from one run of tests in `tests/interop`; not to be edited. Each cell is one test or several
with a real daemon and a real peer of that implementation, processes on one machine. Other versions of them are in
[Interop: versions](interop-versions.md).
"""
COLUMNS = """\
Each cell is a test in `tests/interop/test_matrix.py`.

| column | what is seen |
| --- | --- |
| dial | a connection, which both sides know with its direction, address, security and muxer |
| identify | each side has the other's agent, protocols and addresses |
| ping | round trips, asked for by both sides |
| echo | 1 MiB of random bytes there and back on a protocol of the user's own, streams opened by both sides |
| close | the side that dialled closes; both see it once, as an end in order |
| kill | the peer's process is killed; the daemon sees it once |
"""
VERSIONS = "## The peers\n\n| peer | implementation | runs on |\n| --- | --- | --- |\n"
MATRIX = "## The matrix\n\n"
TABLE = "\n| transport | peer | who dials | " + " | ".join(ASPECTS) + " |\n" + "| --- " * 9 + "|\n"
CAUSES = "## What does not work\n\n"
FEATURES_HEAD = """\
## Features

A cell is "yes" where all its tests have passed, "-" where one was left out. "none": not tried, the tests have no such
peer; the relay and the AutoNAT servers are go's, the Fabstir node is rust's. mDNS, relay and AutoNAT are tried in
network namespaces of the test's own, the last two with a NAT made by nftables. Streams are opened by both sides.

"""
FEATURES_TABLE = "| feature | " + " | ".join(IMPLEMENTATIONS) + " | tests in |\n" + "| --- " * 5 + "|\n"
LIMITS_HEAD = "## Known limits\n\n"


class Results(NamedTuple):
    """``works`` and ``features`` have every cell that was run; ``versions`` an implementation and its runtime."""

    works: dict[Cell, bool]
    versions: dict[str, tuple[str, str]]
    features: dict[FeatureCell, bool]


def render(results: Results) -> str:
    """`docs/interop.md`. Cells that were not run are shown by a dash."""
    causes = list(dict.fromkeys(KNOWN.values()))
    text = HEAD + "\n" + VERSIONS
    for name, (implementation, runtime) in sorted(results.versions.items()):
        text += f"| {name} | {implementation} | {runtime} |\n"
    text += "\n" + MATRIX + COLUMNS + TABLE
    for transport in TRANSPORTS:
        for name in IMPLEMENTATIONS:
            for dialler in DIALLERS:
                cells = [Cell(transport, name, dialler, aspect) for aspect in ASPECTS]
                shown = " | ".join(_shown(results.works, cell, causes) for cell in cells)
                text += f"| {transport} | {name} | {dialler} | {shown} |\n"
    if causes:
        text += "\n" + CAUSES
        for number, cause in enumerate(causes, 1):
            text += f"{number}. {cause.words} ({cause.where})\n"
    text += "\n" + FEATURES_HEAD + FEATURES_TABLE
    for feature in FEATURES:
        shown = " | ".join(_feature_shown(results.features, feature, name) for name in IMPLEMENTATIONS)
        text += f"| {feature.name} | {shown} | `{feature.module}.py` |\n"
    text += "\n" + LIMITS_HEAD
    for limit in LIMITS:
        text += f"- {limit.words} ({limit.where}).\n"
    return text


def _feature_shown(features: Mapping[FeatureCell, bool], feature: Feature, implementation: str) -> str:
    if implementation not in feature.by:
        return "none"
    works = features.get(FeatureCell(feature.name, implementation))
    return "-" if works is None else "yes" if works else "no"


def _shown(works: Mapping[Cell, bool], cell: Cell, causes: list[Cause]) -> str:
    if cell not in works:
        return "-"
    if works[cell]:
        return "yes"
    return f"no ({causes.index(KNOWN[cell]) + 1})" if cell in KNOWN else "no"


def parse(text: str) -> Results:
    """What a rendered document tells."""
    works: dict[Cell, bool] = {}
    for row in re.findall(r"^\| (\S+) \| (\w+) \| (daemon|peer) \| (.+) \|$", text, re.MULTILINE):
        for aspect, shown in zip(ASPECTS, row[3].split(" | "), strict=True):
            if shown != "-":
                works[Cell(row[0], row[1], row[2], aspect)] = shown == "yes"
    versions = {
        row[0]: (row[1], row[2])
        for row in re.findall(r"^\| (\w+) \| (\w+-libp2p/\S+) \| (\S+) \|$", text, re.MULTILINE)
    }
    features: dict[FeatureCell, bool] = {}
    for row in re.findall(r"^\| (.+?) \| (.+) \| `test_\w+\.py` \|$", text, re.MULTILINE):
        for name, shown in zip(IMPLEMENTATIONS, row[1].split(" | "), strict=True):
            if shown in ("yes", "no"):
                features[FeatureCell(row[0], name)] = shown == "yes"
    return Results(works, versions, features)
