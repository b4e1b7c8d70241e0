//! What differs between the versions of rust-libp2p, for 0.57: its random numbers are of a newer `rand`, and async
//! functions in traits are the language's own.

use libp2p::autonat::v2::{client, server};
use libp2p::kad::{self, PeerInfo};
use libp2p::tcp::tokio::Transport as Sockets;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use rand_0_10::{make_rng, rngs::StdRng};
use std::io;
use std::time::Duration;

pub type AutonatClient = client::Behaviour;
pub type AutonatServer = server::Behaviour;

pub fn autonat_client(every: Duration) -> Result<AutonatClient, String> {
    Ok(client::Behaviour::new(make_rng::<StdRng>(), client::Config::default().with_probe_interval(every)))
}

pub fn autonat_server() -> Result<AutonatServer, String> {
    Ok(server::Behaviour::default())
}

/// The address that a server of AutoNAT v2 has tried, and whether it got through.
pub fn tested(event: client::Event) -> (Multiaddr, bool) {
    (event.tested_addr, event.result.is_ok())
}

pub fn kad_config(protocol: StreamProtocol) -> kad::Config {
    kad::Config::new(protocol)
}

/// Where a peer is, among those that a lookup has found.
pub fn addresses_of(peer: PeerId, found: Vec<PeerInfo>) -> Option<Vec<Multiaddr>> {
    found.into_iter().find(|info| info.peer_id == peer).map(|info| info.addrs)
}

/// What WebSocket is spoken over.
pub fn web_sockets(sockets: Sockets) -> io::Result<Sockets> {
    Ok(sockets)
}

/// An `impl` of a trait with `async fn`s.
macro_rules! asynchronous {
    ($($implementation:tt)*) => { $($implementation)* };
}
pub(crate) use asynchronous;
