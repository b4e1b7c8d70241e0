//! The swarm that the options ask for.

use crate::frames::{Frames, INFERENCE, JOB};
use crate::options::{AutoNat, DhtMode, Options, Security, IDENTIFY, PING};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::kad::store::MemoryStore;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::NetworkBehaviour;
use libp2p::autonat::v2 as autonat;
use libp2p::{identify, identity, kad, mdns, noise, ping, tcp, tls, yamux};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport};
use rand::rngs::OsRng;
use std::error::Error;
use std::time::Duration;

const KAD: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");
const NEVER: Duration = Duration::from_secs(86_400); // an idle limit that no test reaches
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60); // a command's own deadline is shorter

type Secured = Boxed<(PeerId, StreamMuxerBox)>;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub identify: Toggle<identify::Behaviour>,
    pub ping: Toggle<ping::Behaviour>,
    pub kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub mdns: Toggle<mdns::tokio::Behaviour>,
    pub job: Toggle<request_response::Behaviour<Frames>>,
    pub inference: Toggle<request_response::Behaviour<Frames>>,
    pub autonat_client: Toggle<autonat::client::Behaviour>,
    pub autonat_server: Toggle<autonat::server::Behaviour>,
    pub streams: libp2p_stream::Behaviour,
}

pub fn swarm(options: &Options) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    let key = match options.seed()? {
        Some(seed) => identity::Keypair::ed25519_from_bytes(seed)?,
        None => identity::Keypair::generate_ed25519(),
    };
    let idle = options.idle_timeout.map_or(NEVER, Duration::from_millis);
    let security = match options.security() {
        [security] => *security,
        _ => return Err("\"security\" must be one of \"noise\" and \"tls\" here".into()),
    };
    let sockets = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    Ok(SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_quic()
        .with_other_transport(|key| secured(sockets(), key, security))?
        .with_other_transport(|key| secured(libp2p_websocket::WsConfig::new(sockets()), key, security))?
        .with_behaviour(|key| Ok(behaviour(key, options)?))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
        .build())
}

/// Connections of a transport, encrypted by one protocol or the other.
fn secured<T>(transport: T, key: &identity::Keypair, security: Security) -> Result<Secured, Box<dyn Error + Send + Sync>>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let muxed = yamux::Config::default();
    let transport = transport.upgrade(Version::V1);
    Ok(match security {
        Security::Noise => transport.authenticate(noise::Config::new(key)?).multiplex(muxed).boxed(),
        Security::Tls => transport.authenticate(tls::Config::new(key)?).multiplex(muxed).boxed(),
    })
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
    let (asks, answers) = (options.autonat == Some(AutoNat::Client), options.autonat == Some(AutoNat::Server));
    let often = autonat::client::Config::default().with_probe_interval(Duration::from_secs(1));
    Ok(Behaviour {
        identify: has(IDENTIFY).then(|| identify::Behaviour::new(told)).into(),
        ping: has(PING).then(ping::Behaviour::default).into(),
        kad: table.into(),
        mdns: found.into(),
        job: frames(JOB).into(),
        inference: frames(INFERENCE).into(),
        autonat_client: asks.then(|| autonat::client::Behaviour::new(OsRng, often)).into(),
        autonat_server: answers.then(|| autonat::server::Behaviour::new(OsRng)).into(),
        streams: libp2p_stream::Behaviour::new(),
    })
}
