"""libp2p's host and its Noise, adapted: what `Host` puts together and nobody else sees."""

from __future__ import annotations

from collections.abc import Container
from typing import cast

import trio
from libp2p.abc import INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.noise.messages import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from fabstird.log import get_logger
from fabstird.p2p import multistream
from fabstird.p2p.link import muxed

log = get_logger("p2p.host")

NEGOTIATION = 10  # seconds for agreeing on a stream's protocol


class _SignedOnce(PatternXX):
    """libp2p's handshake, whose proof of the own key is signed once: it is the same in every handshake."""

    def __init__(self, noise: NoiseTransport) -> None:
        super().__init__(noise.local_peer, noise.libp2p_privkey, noise.noise_privkey)
        self._payload = super().make_handshake_payload()

    def make_handshake_payload(self, extensions: NoiseExtensions | None = None) -> NoiseHandshakePayload:
        return self._payload if extensions is None else super().make_handshake_payload(extensions)


class _Noise(NoiseTransport):
    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)
        self._pattern = _SignedOnce(self)

    def get_pattern(self) -> PatternXX:
        return self._pattern


class LibHost(BasicHost):
    """libp2p's host without its own identify client, which runs in a system task (see `identify`)."""

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        return None

    circuits: tuple[Multiaddr, ...] = ()  # where relays take connections for us, with our peer id

    def get_addrs(self) -> list[Multiaddr]:
        return [*super().get_addrs(), *self.circuits]

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        handlers = self.multiselect.handlers
        try:
            with trio.fail_after(NEGOTIATION):
                protocol, rest = await multistream.answer(
                    net_stream.read, net_stream.write, cast(Container[str], handlers)
                )
        except MultiselectError as error:
            log.debug("no protocol agreed on", peer=str(net_stream.muxed_conn.peer_id), error=str(error))
            await net_stream.reset()
            return
        muxed(net_stream).unread(rest)
        net_stream.set_protocol(TProtocol(protocol))
        handler = handlers[TProtocol(protocol)]
        assert handler is not None  # only protocols with one are ever set
        await handler(net_stream)


def upgrader(key_pair: KeyPair) -> TransportUpgrader:
    """Noise and Yamux only: TLS fails with js both ways, plaintext and mplex are no company to keep (trap 19)."""
    return TransportUpgrader({NOISE: _Noise(key_pair)}, {}, negotiate_timeout=NEGOTIATION)
