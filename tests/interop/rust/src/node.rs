//! The swarm that the options ask for.

use crate::frames::{Frames, INFERENCE, JOB};
use crate::options::{DhtMode, Options, IDENTIFY, PING};
use libp2p::core::upgrade::Version;
use libp2p::kad::store::MemoryStore;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{identify, identity, kad, mdns, noise, ping, tcp, yamux};
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, Transport};
use std::error::Error;
use std::time::Duration;

const KAD: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
const NEVER: Duration = Duration::from_secs(86_400); // an idle limit that no test reaches
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60); // a command's own deadline is shorter

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub identify: Toggle<identify::Behaviour>,
    pub ping: Toggle<ping::Behaviour>,
    pub kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub job: Toggle<request_response::Behaviour<Frames>>,
    pub inference: Toggle<request_response::Behaviour<Frames>>,
    pub streams: libp2p_stream::Behaviour,
}

pub fn swarm(options: &Options) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let key = match options.seed()? {
        Some(seed) => identity::Keypair::ed25519_from_bytes(seed)?,
        None => identity::Keypair::generate_ed25519(),
    };
    let idle = options.idle_timeout.map_or(NEVER, Duration::from_millis);
    Ok(SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_other_transport(|key| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
            Ok::<_, Box<dyn Error + Send + Sync>>(
                libp2p_websocket::WsConfig::new(tcp)
                    .upgrade(Version::V1)
                    .authenticate(noise::Config::new(key)?)
                    .multiplex(yamux::Config::default()),
            )
        })?
        .with_behaviour(|key| Ok(behaviour(key, options)?))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
        .build())
}

fn behaviour(key: &identity::Keypair, options: &Options) -> Result<Behaviour, Box<dyn Error + Send + Sync>> {
    let peer = key.public().to_peer_id();
    let protocols = options.protocols();
    let has = |name: &str| protocols.iter().any(|protocol| protocol == name);
    let version = options.protocol_version.clone().unwrap_or_else(|| "ipfs/0.1.0".into());
    let mut told = identify::Config::new(version, key.public()).with_push_listen_addr_updates(true);
    if let Some(agent) = &options.agent_version {
        told = told.with_agent_version(agent.clone());
    }
    let table = options.dht.map(|mode| {
        let mut table = kad::Behaviour::with_config(peer, MemoryStore::new(peer), kad::Config::new(KAD));
        table.set_mode(Some(match mode {
            DhtMode::Client => kad::Mode::Client,
            DhtMode::Server => kad::Mode::Server,
        }));
        table
    });
    let mut found = mdns::Config::default();
    if let Some(interval) = options.mdns_interval {
        found.query_interval = Duration::from_millis(interval);
    }
    let found = if options.mdns { Some(mdns::tokio::Behaviour::new(found, peer)?) } else { None };
    let frames = |name| {
        options.fabstir_node.then(|| {
            let settings = request_response::Config::default().with_request_timeout(REQUEST_TIMEOUT);
            request_response::Behaviour::new([(StreamProtocol::new(name), ProtocolSupport::Full)], settings)
        })
    };
    Ok(Behaviour {
        identify: has(IDENTIFY).then(|| identify::Behaviour::new(told)).into(),
        ping: has(PING).then(ping::Behaviour::default).into(),
        kad: table.into(),
        mdns: found.into(),
        job: frames(JOB).into(),
        inference: frames(INFERENCE).into(),
        streams: libp2p_stream::Behaviour::new(),
    })
}
