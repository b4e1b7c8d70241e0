//! The swarm that the options ask for.

use crate::differences::{self, AutonatClient, AutonatServer};
use crate::frames::{Frames, INFERENCE, JOB};
use crate::options::{AutoNat, DhtMode, Options, Security, IDENTIFY, PING};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OptionalTransport};
use libp2p::core::upgrade::Version;
use libp2p::kad::store::MemoryStore;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{dcutr, identify, identity, kad, mdns, noise, ping, relay, tcp, tls, yamux};
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport};
use libp2p_websocket::tls::{Certificate, PrivateKey};
use std::error::Error;
use std::path::Path;
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
    pub autonat_client: Toggle<AutonatClient>,
    pub autonat_server: Toggle<AutonatServer>,
    pub relayed: Toggle<relay::client::Behaviour>,
    pub punching: Toggle<dcutr::Behaviour>,
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
    let relays = options.hole_punching || !options.relay_via.is_empty();
    let (circuits, relayed) = relays.then(|| relay::client::new(key.public().to_peer_id())).unzip();
    #[allow(deprecated)] // from 0.56 on it is called `Config`
    let mut web = libp2p_websocket::WsConfig::new(differences::web_sockets(sockets())?);
    web.set_tls_config(inside_tls(options)?);
    Ok(SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_quic()
        .with_other_transport(|key| secured(sockets(), key, security))?
        .with_other_transport(|key| secured(web, key, security))?
        .with_other_transport(|key| match circuits {
            Some(circuits) => secured(circuits, key, security).map(OptionalTransport::some),
            None => Ok(OptionalTransport::none()),
        })?
        .with_behaviour(|key| Ok(behaviour(key, options, relayed)?))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
        .build())
}

/// Connections of a transport, encrypted by one protocol or the other.
fn secured<T>(
    transport: T,
    key: &identity::Keypair,
    security: Security,
) -> Result<Secured, Box<dyn Error + Send + Sync>>
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

/// What a WebSocket inside TLS is listened for with, and whom it trusts besides the authorities of the web.
fn inside_tls(options: &Options) -> Result<libp2p_websocket::tls::Config, Box<dyn Error>> {
    let mut made = libp2p_websocket::tls::Config::builder();
    if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
        for authority in pem(Path::new(&path))? {
            let _ = made.add_trust(&Certificate::new(authority)); // one that it cannot read is not trusted
        }
    }
    if let (Some(certificate), Some(key)) = (&options.web_certificate, &options.web_key) {
        let key = pem(Path::new(key))?.pop().ok_or("\"webKey\" has no key")?;
        made.server(PrivateKey::new(key), pem(Path::new(certificate))?.into_iter().map(Certificate::new))?;
    }
    Ok(made.finish())
}

/// What is in a PEM file, as DER.
fn pem(path: &Path) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (mut all, mut inside) = (Vec::new(), None::<String>);
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            inside = Some(String::new());
        } else if line.starts_with("-----END ") {
            all.push(STANDARD.decode(inside.take().unwrap_or_default())?);
        } else if let Some(body) = inside.as_mut() {
            body.push_str(line);
        }
    }
    Ok(all)
}

fn behaviour(
    key: &identity::Keypair,
    options: &Options,
    relayed: Option<relay::client::Behaviour>,
) -> Result<Behaviour, Box<dyn Error + Send + Sync>> {
    let peer = key.public().to_peer_id();
    let protocols = options.protocols();
    let has = |name: &str| protocols.iter().any(|protocol| protocol == name);
    let version = options.protocol_version.clone().unwrap_or_else(|| "ipfs/0.1.0".into());
    let mut told = identify::Config::new(version, key.public()).with_push_listen_addr_updates(true);
    if let Some(agent) = &options.agent_version {
        told = told.with_agent_version(agent.clone());
    }
    let table = options.dht.map(|mode| {
        let mut table = kad::Behaviour::with_config(peer, MemoryStore::new(peer), differences::kad_config(KAD));
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
    let autonat_client = if asks { Some(differences::autonat_client(Duration::from_secs(1))?) } else { None };
    let autonat_server = if answers { Some(differences::autonat_server()?) } else { None };
    Ok(Behaviour {
        identify: has(IDENTIFY).then(|| identify::Behaviour::new(told)).into(),
        ping: has(PING).then(ping::Behaviour::default).into(),
        kad: table.into(),
        mdns: found.into(),
        job: frames(JOB).into(),
        inference: frames(INFERENCE).into(),
        autonat_client: autonat_client.into(),
        autonat_server: autonat_server.into(),
        relayed: relayed.into(),
        punching: options.hole_punching.then(|| dcutr::Behaviour::new(peer)).into(),
        streams: libp2p_stream::Behaviour::new(),
    })
}
