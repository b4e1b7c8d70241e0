"""The specifications' protobuf messages, as generated in py-libp2p. They are imported only here, under names that say
whose they are, and nothing else of libp2p is imported."""

from fabstird.p2p.wire.partial import parts_of

with parts_of(
    "libp2p",
    *("libp2p.host", "libp2p.host.autonat", "libp2p.host.autonat.pb"),
    *("libp2p.identity", "libp2p.identity.identify", "libp2p.identity.identify.pb"),
    *("libp2p.kad_dht", "libp2p.kad_dht.pb"),
    *("libp2p.peer", "libp2p.peer.pb"),
    *("libp2p.relay", "libp2p.relay.circuit_v2", "libp2p.relay.circuit_v2.pb"),
    *("libp2p.security", "libp2p.security.noise", "libp2p.security.noise.pb"),
):
    from libp2p.host.autonat.pb.autonat_pb2 import Message as AutoNatMessage
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from libp2p.kad_dht.pb.kademlia_pb2 import Message as DhtMessage
    from libp2p.kad_dht.pb.kademlia_pb2 import Record as DhtRecord
    from libp2p.peer.pb.envelope_pb2 import Envelope
    from libp2p.peer.pb.peer_record_pb2 import PeerRecord
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Limit, Status, StopMessage, Voucher
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import PeerId as RelayPeer
    from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
    from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload

DhtPeer = DhtMessage.Peer

__all__ = [
    "AutoNatMessage",
    "DhtMessage",
    "DhtPeer",
    "DhtRecord",
    "Envelope",
    "HolePunch",
    "HopMessage",
    "Identify",
    "Limit",
    "NoiseHandshakePayload",
    "PeerRecord",
    "RelayPeer",
    "Status",
    "StopMessage",
    "Voucher",
]
