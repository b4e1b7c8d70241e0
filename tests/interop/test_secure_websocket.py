"""WebSocket inside TLS: js-libp2p dials a daemon by a name, and trusts the same authority as others do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import fabstird
from tests.interop.jspeer import js_peer
from tests.interop.peerdriver import PeerError
from tests.interop.test_tls import echoes
from tests.support.authority import Authority

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("js")]


async def test_js_dials_a_daemon_inside_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    settings = {**authority.sign("localhost"), "api.max_request_bytes": 4 * 1024 * 1024}
    listen = ["/ip4/127.0.0.1/tcp/0/tls/sni/localhost/ws"]
    async with fabstird(settings=settings, listen_addresses=listen) as daemon:
        (address,) = daemon.status["listenAddresses"]
        assert "/tls/sni/localhost/ws/p2p/" in address
        named = f"/dns4/localhost/tcp/{address.split('/')[4]}/tls/ws/p2p/{daemon.peer_id}"
        async with js_peer() as stranger:
            with pytest.raises(PeerError):  # it does not trust that authority
                await stranger.call("dial", address=named)
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(authority.path))
        async with js_peer() as peer:
            await peer.call("dial", address=named)
            await daemon.wait_event("peer:identify", peerId=peer.peer_id)
            entry = await daemon.peer(peer.peer_id)
            assert entry is not None
            assert [one["transport"] for one in entry["connections"]] == ["wss"]
            await echoes(daemon, peer)
