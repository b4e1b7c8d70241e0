//! What differs between the versions of rust-libp2p, for 0.53: AutoNAT v2 begins with 0.54, a lookup tells no addresses,
//! and WebSocket inside TLS is dialled by a name alone.

use libp2p::swarm::{dummy, NetworkBehaviour};
use libp2p::tcp::tokio::Transport as Sockets;
use libp2p::{dns, kad, Multiaddr, PeerId, StreamProtocol};
use std::io;
use std::time::Duration;

pub type AutonatClient = dummy::Behaviour;
pub type AutonatServer = dummy::Behaviour;

const NONE: &str = "rust-libp2p 0.53 has no AutoNAT v2";

pub fn autonat_client(_: Duration) -> Result<AutonatClient, String> {
    Err(NONE.into())
}

pub fn autonat_server() -> Result<AutonatServer, String> {
    Err(NONE.into())
}

pub fn tested(event: <AutonatClient as NetworkBehaviour>::ToSwarm) -> (Multiaddr, bool) {
    match event {}
}

pub fn kad_config(protocol: StreamProtocol) -> kad::Config {
    let mut config = kad::Config::default();
    config.set_protocol_names(vec![protocol]);
    config
}

/// Where a peer is, among those that a lookup has found.
pub fn addresses_of(peer: PeerId, found: Vec<PeerId>) -> Option<Vec<Multiaddr>> {
    found.contains(&peer).then(Vec::new)
}

/// What WebSocket is spoken over.
pub fn web_sockets(sockets: Sockets) -> io::Result<dns::tokio::Transport<Sockets>> {
    dns::tokio::Transport::system(sockets)
}

/// An `impl` of a trait with `async fn`s.
macro_rules! asynchronous {
    ($($implementation:tt)*) => { #[async_trait::async_trait] $($implementation)* };
}
pub(crate) use asynchronous;
