"""The daemon and other versions of the implementations, over each transport and with each security, dialled by either.

`make interop-versions` tries all, and writes `docs/interop-versions.md`; `make test` only what the other tests do not
have: WebSocket inside TLS, with the js-libp2p of the other tests, which is dialled and dials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.harness import Daemon, asked_until, fabstird
from tests.interop import gopeer, rustpeer
from tests.interop.conftest import VERSIONS_REPORT
from tests.interop.peerdriver import Peer, transport_of
from tests.interop.peers import START
from tests.interop.test_matrix import known_to_both, quiet
from tests.interop.test_tls import echoes
from tests.interop.versions import (
    HERE,
    KNOWN,
    PINNED,
    ROWS,
    VERSIONS,
    Row,
    Run,
    Version,
    Way,
    merged,
    name_of,
    parse,
    render,
)
from tests.support.authority import Authority

pytestmark = pytest.mark.interop

DOCUMENT = Path(__file__).parents[2] / "docs" / "interop-versions.md"
REPORT = os.environ.get(VERSIONS_REPORT)
TLS_WS = "tls/ws"
LISTEN = {
    "tcp": "/ip4/127.0.0.1/tcp/0",
    "ws": "/ip4/127.0.0.1/tcp/0/ws",
    "wss": f"/ip4/127.0.0.1/tcp/0/{TLS_WS}",
    "quic-v1": "/ip4/127.0.0.1/udp/0/quic-v1",
}
SECURITY = {"noise": "/noise", "tls": "/tls/1.0.0"}
PING = "/ipfs/ping/1.0.0"
AGENT = "under-test/1.2.3"
BY_NAME = {version.name: version for version in VERSIONS}
QUICK = [row for row in ROWS if row.way == Way("wss", "noise") and BY_NAME[row.version].made_from == PINNED["js"]]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Trusted by the daemon and the peer: Node has a variable of its own for it."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.path))
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(made.path))
    return made


def marked(row: Row) -> object:
    cause = KNOWN.get(row)
    marks = [pytest.mark.xfail(strict=True, reason=f"{cause.words} ({cause.where})")] if cause else []
    return pytest.param(row, id=name_of(row), marks=marks)


@pytest.mark.parametrize("row", [marked(row) for row in (ROWS if REPORT else QUICK)])
async def test_row(row: Row, authority: Authority, request: pytest.FixtureRequest) -> None:
    version = BY_NAME[row.version]
    request.getfixturevalue(version.implementation)
    transport, security = row.way
    files = authority.sign("localhost", "127.0.0.1")
    settings = {**files, "api.max_request_bytes": 4 * 1024 * 1024}
    web = {"webCertificate": files["tls.certificate"], "webKey": files["tls.key"]} if transport == "wss" else {}
    start = partial(START[version.implementation], made_from=version.made_from, agent_version=AGENT)
    async with (
        start(listen=[LISTEN[transport].replace(TLS_WS, inside_tls(version))], security=[security], **web) as peer,
        fabstird(settings=settings, listen_addresses=[LISTEN[transport]]) as daemon,
    ):
        assert peer.implementation == f"{version.implementation}-libp2p/{version.number}"
        if row.dialler == "daemon":
            await daemon.call("connect", address=dialled(peer.addresses, version, transport))
        else:
            await peer.call("dial", address=dialled(daemon.status["listenAddresses"], version, transport))
        await known_to_both(daemon, peer, row.dialler, transport, SECURITY[security])
        await both_identify(daemon, peer, transport)
        for _ in range(3):
            assert (await daemon.call("ping", peerId=peer.peer_id))["rtt"] > 0
            assert (await peer.call("ping", peerId=daemon.peer_id))["rtt"] > 0
        await echoes(daemon, peer)
        await ends_for_both(daemon, peer, row.dialler)


def inside_tls(version: Version) -> str:
    """How its addresses spell WebSocket inside TLS."""
    return version.wss.partition("/{}/")[2]


def dialled(addresses: list[str], version: Version, transport: str) -> str:
    """The address at which the other side is dialled, of the one at which it listens."""
    (address,) = addresses
    if transport != "wss":
        return address
    _, _, _, _, port, *_, peer_id = address.split("/")
    return f"{version.wss.format(port)}/p2p/{peer_id}"


async def both_identify(daemon: Daemon, peer: Peer, transport: str) -> None:
    told = await daemon.wait_event("peer:identify", peerId=peer.peer_id)
    assert told["agentVersion"] == AGENT
    assert PING in told["protocols"]
    assert peer.addresses[0].replace("/wss/", f"/{TLS_WS}/") in [
        address.replace("/wss/", f"/{TLS_WS}/") for address in told["addresses"]
    ]
    heard = await peer.wait_event("identify", peer_id=daemon.peer_id)
    assert heard["agentVersion"].startswith("fabstird/")
    assert PING in heard["protocols"]
    assert transport_of(heard["addresses"][0]) == transport.replace("wss", "ws")


async def ends_for_both(daemon: Daemon, peer: Peer, dialler: str) -> None:
    if dialler == "daemon":
        assert await daemon.call("disconnect", peerId=peer.peer_id) == {"peerId": peer.peer_id, "closed": 1}
    else:
        await asked_until(lambda: quiet(daemon, peer), bool)
        assert (await peer.call("disconnect", peerId=daemon.peer_id))["closed"] == 1
    gone = await daemon.wait_event("peer:disconnect", peerId=peer.peer_id)
    # go and js may close with RST (README)
    assert gone["reason"] == ("closed" if dialler == "daemon" else "closed_by_peer") or gone["reason"] == "reset"
    await peer.wait_event("disconnect", peer_id=daemon.peer_id)
    assert await peer.call("peers") == []


def test_a_run_of_some_rows_leaves_the_others_as_they_were() -> None:
    before = Run(dict.fromkeys(ROWS, True), 9, 2)
    some = Run({ROWS[0]: False}, 1, 4)
    assert merged(some, before) == Run({**before.works, ROWS[0]: False}, 9, 2)
    whole = Run(dict.fromkeys(ROWS, False), 8, 4)
    assert merged(whole, before) == whole
    gone = Run({Row("rust 0.1", "peer", ROWS[0].way): True}, 9, 2)
    assert merged(some, gone) == Run(some.works, 9, 2)


def test_the_document_is_the_generators() -> None:
    text = DOCUMENT.read_text()
    run = parse(text)
    assert render(run) == text, "make interop-versions writes docs/interop-versions.md"
    assert set(run.works) == set(ROWS), "every row was run"
    assert {row for row, does in run.works.items() if not does} == set(KNOWN)


@pytest.mark.parametrize(
    ("version", "sources"),
    [("go-0.38", gopeer.sources), ("rust-0.53", rustpeer.sources), ("rust-0.57", rustpeer.sources)],
)
def test_a_version_s_own_source_stands_for_the_common_one(version: str, sources: Callable[..., list[Path]]) -> None:
    made_from = HERE / "versions" / version
    common, own = sources(), sources(made_from)
    assert [path.name for path in own] == [path.name for path in common]
    assert set(made_from.iterdir()) == set(own) - set(common), "a file that stands for none"


def test_each_version_that_is_kept_is_tried() -> None:
    kept = {*(HERE / "versions").iterdir(), *PINNED.values()}
    assert {version.made_from for version in VERSIONS} == kept


def test_lock_files_have_hashes_and_no_addresses() -> None:
    for version in VERSIONS:
        text = "".join(path.read_text() for path in version.made_from.glob("*lock*"))
        assert '"resolved"' not in text
        assert not re.search(r"registry[.+]|\.tgz|\.crate\b", text), "an address to download from"
        assert re.search(r'"integrity"|^checksum = ', text, re.MULTILINE) or (version.made_from / "go.sum").is_file()
