//! One task owns the swarm: it takes the commands, and answers those that the swarm's events answer.

use crate::differences;
use crate::ends;
use crate::frames::{INFERENCE, JOB};
use crate::node::{Behaviour, BehaviourEvent};
use crate::options::{Security, ECHO};
use crate::streams;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, store::RecordStore, GetProvidersOk, GetRecordOk, QueryId, QueryResult, Quorum, Record};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{self, Message, OutboundRequestId};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{identify, mdns, Multiaddr, PeerId, Swarm};
use libp2p_stream::Control;
use serde_json::{json, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::sync::{oneshot, watch};

pub type Answer = Result<Value, String>;
type Reply = oneshot::Sender<Answer>;

type Begun = (QueryId, Box<dyn FnOnce(Reply) -> Query>);

fn begin(id: QueryId, query: impl FnOnce(Reply) -> Query + 'static) -> Begun {
    (id, Box::new(query))
}

enum Query {
    Bootstrap(Reply),
    Find(PeerId, Reply),
    Get(Reply),
    Provide(Reply),
    Providers(HashSet<PeerId>, Reply),
    Put(Reply),
}

struct Connection {
    peer: PeerId,
    endpoint: ConnectedPoint,
    security: &'static str,
}

pub struct Peer {
    pub swarm: Swarm<Behaviour>,
    security: &'static str,
    control: Control,
    connections: BTreeMap<ConnectionId, Connection>,
    identified: HashMap<PeerId, Value>,
    dials: HashMap<ConnectionId, Reply>,
    queries: HashMap<QueryId, Query>,
    requests: HashMap<(&'static str, OutboundRequestId), Reply>,
    released: watch::Sender<u64>, // counts the commands `release`
}

pub fn send(message: Value) {
    println!("{message}"); // one line, and a line at a time: std locks and flushes
}

impl Peer {
    pub fn new(swarm: Swarm<Behaviour>, security: Security, released: watch::Sender<u64>) -> Self {
        let control = swarm.behaviour().streams.new_control();
        Self {
            swarm,
            security: if security == Security::Tls { "/tls/1.0.0" } else { "/noise" },
            control,
            connections: BTreeMap::new(),
            identified: HashMap::new(),
            dials: HashMap::new(),
            queries: HashMap::new(),
            requests: HashMap::new(),
            released,
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        let own = *self.swarm.local_peer_id();
        let whole = |address: &Multiaddr| match address.clone().with_p2p(own) {
            Ok(address) | Err(address) => address.to_string(),
        };
        self.swarm.listeners().map(whole).collect()
    }

    // ------------------------------------------------------------------------------------------------------------
    // commands

    /// Begins a command. What cannot be answered at once is answered by `reply` later, or never: the caller has a
    /// deadline.
    pub fn obey(&mut self, command: &str, arguments: &Value, reply: Reply) {
        let done = match command {
            "dial" => return self.dial(arguments, reply),
            "ping" | "identify" | "echo" | "exchange" | "streams" | "perf" => {
                return self.on_stream(command, arguments, reply)
            }
            "release" => {
                self.released.send_modify(|times| *times += 1);
                Ok(json!({}))
            }
            "request" => return self.request(arguments, reply),
            "peers" => Ok(self.peers()),
            "peerInfo" => self.peer_info(arguments),
            "addresses" => {
                Ok(json!({ "peerId": self.swarm.local_peer_id().to_string(), "addresses": self.addresses() }))
            }
            "disconnect" => self.disconnect(arguments),
            name if name.starts_with("dht") => return self.dht(name, arguments, reply),
            _ => Err(format!("unknown command \"{command}\"")),
        };
        let _ = reply.send(done); // whoever asked may have given up
    }

    fn dial(&mut self, arguments: &Value, reply: Reply) {
        let begun = (|| {
            let address = address(arguments)?;
            let peer = peer_of(&address);
            let force = arguments["force"].as_bool().unwrap_or(false);
            let known = self.connections.values().find(|connection| Some(connection.peer) == peer);
            if let (Some(connection), false) = (known, force) {
                return Ok(Err(connection.described()));
            }
            let dial: DialOpts = match peer {
                Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build(),
                None => DialOpts::unknown_peer_id().address(address).build(),
            };
            let id = dial.connection_id();
            self.swarm.dial(dial).map_err(|error| error.to_string())?;
            Ok(Ok(id))
        })();
        match begun {
            Ok(Ok(id)) => drop(self.dials.insert(id, reply)),
            Ok(Err(connected)) => drop(reply.send(Ok(connected))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn on_stream(&mut self, command: &str, arguments: &Value, reply: Reply) {
        let mut control = self.control.clone();
        let checked = self.connected_peer(arguments).and_then(|peer| {
            let size = if command == "echo" { echo_size(arguments)? } else { 0 };
            Ok((peer, size))
        });
        let (peer, size) = match checked {
            Ok(checked) => checked,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let (command, arguments) = (command.to_owned(), arguments.clone());
        let protocol = arguments["protocol"].as_str().unwrap_or(ECHO).to_owned();
        tokio::spawn(async move {
            let mut reply = reply;
            let work = async {
                match command.as_str() {
                    "ping" => streams::ping(&mut control, peer).await,
                    "identify" => streams::identify(&mut control, peer).await,
                    "exchange" => ends::exchange(&mut control, peer, &arguments).await,
                    "streams" => ends::streams(&mut control, peer, &arguments).await,
                    "perf" => ends::perf(&mut control, peer, &arguments).await,
                    _ => streams::echo(&mut control, peer, &protocol, size).await,
                }
            };
            let done = tokio::select! { done = work => Some(done), () = reply.closed() => None };
            if let Some(done) = done {
                let _ = reply.send(done);
            }
        });
    }

    fn request(&mut self, arguments: &Value, reply: Reply) {
        let begun = self.connected_peer(arguments).and_then(|peer| {
            let message = arguments["message"].clone();
            let behaviour = self.swarm.behaviour_mut();
            let (name, frames) = match arguments["protocol"].as_str() {
                Some(JOB) => (JOB, behaviour.job.as_mut()),
                Some(INFERENCE) => (INFERENCE, behaviour.inference.as_mut()),
                _ => return Err(format!("\"protocol\" must be {JOB} or {INFERENCE}")),
            };
            let frames = frames.ok_or("only a peer with the option fabstirNode has requests")?;
            Ok((name, frames.send_request(&peer, message)))
        });
        match begun {
            Ok(key) => drop(self.requests.insert(key, reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn peers(&self) -> Value {
        let mut peers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for connection in self.connections.values() {
            let mut described = connection.described();
            described.as_object_mut().expect("it is one").remove("peerId");
            peers.entry(connection.peer.to_string()).or_default().push(described);
        }
        peers
            .into_iter()
            .map(|(peer, all)| json!({ "peerId": peer, "connectionCount": all.len(), "connections": all }))
            .collect()
    }

    fn peer_info(&self, arguments: &Value) -> Answer {
        let peer = peer_id(arguments)?;
        self.identified.get(&peer).cloned().ok_or_else(|| format!("{peer} has not been identified"))
    }

    fn disconnect(&mut self, arguments: &Value) -> Answer {
        let peer = peer_id(arguments)?;
        let closed = self.connections.values().filter(|connection| connection.peer == peer).count();
        let _ = self.swarm.disconnect_peer_id(peer); // an error says that there was none: closed is 0
        Ok(json!({ "peerId": peer.to_string(), "closed": closed }))
    }

    fn dht(&mut self, command: &str, arguments: &Value, reply: Reply) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return drop(reply.send(Err("this peer was started without the option dht".into())));
        };
        let begun = (|| {
            Ok(Ok(match command {
                "dhtAddPeer" => {
                    let address = address(arguments)?;
                    let peer = peer_of(&address).ok_or("the address names no peer")?;
                    kad.add_address(&peer, address);
                    return Ok(Err(json!({ "peerId": peer.to_string() })));
                }
                "dhtPeers" => {
                    let table: Vec<_> = kad
                        .kbuckets()
                        .flat_map(|bucket| {
                            bucket.iter().map(|entry| entry.node.key.preimage().to_string()).collect::<Vec<_>>()
                        })
                        .collect();
                    return Ok(Err(json!({ "peers": table })));
                }
                "dhtBootstrap" => {
                    let id = kad.bootstrap().map_err(|error| error.to_string())?;
                    begin(id, Query::Bootstrap)
                }
                "dhtFindPeer" => {
                    let peer = peer_id(arguments)?;
                    begin(kad.get_closest_peers(peer), move |reply| Query::Find(peer, reply))
                }
                "dhtPut" => {
                    let record = Record::new(bytes(arguments, "key")?, bytes(arguments, "value")?);
                    let id = kad.put_record(record, Quorum::One).map_err(|error| error.to_string())?;
                    begin(id, Query::Put)
                }
                "dhtGet" => begin(kad.get_record(bytes(arguments, "key")?.into()), Query::Get),
                "dhtProvide" => {
                    let key = bytes(arguments, "key")?.into();
                    begin(kad.start_providing(key).map_err(|error| error.to_string())?, Query::Provide)
                }
                "dhtFindProviders" => {
                    let key: kad::RecordKey = bytes(arguments, "key")?.into();
                    let own = kad.store_mut().providers(&key).into_iter().map(|record| record.provider).collect();
                    begin(kad.get_providers(key), move |reply| Query::Providers(own, reply))
                }
                _ => return Err(format!("unknown command \"{command}\"")),
            }))
        })();
        match begun {
            Ok(Ok((id, query))) => drop(self.queries.insert(id, query(reply))),
            Ok(Err(done)) => drop(reply.send(Ok(done))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn connected_peer(&self, arguments: &Value) -> Result<PeerId, String> {
        let peer = peer_id(arguments)?;
        if self.swarm.is_connected(&peer) {
            Ok(peer)
        } else {
            Err(format!("not connected to {peer}"))
        }
    }

    // ------------------------------------------------------------------------------------------------------------
    // events

    pub fn take(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, num_established, .. } => {
                let connection = Connection { peer: peer_id, endpoint, security: self.security };
                if let Some(reply) = self.dials.remove(&connection_id) {
                    let _ = reply.send(Ok(connection.described()));
                }
                self.connections.insert(connection_id, connection);
                if num_established.get() == 1 {
                    send(json!({ "event": "connect", "peerId": peer_id.to_string() }));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.connections.remove(&connection_id);
                if num_established == 0 {
                    let cause = cause.map(|cause| cause.to_string());
                    send(json!({ "event": "disconnect", "peerId": peer_id.to_string(), "cause": cause }));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(reply) = self.dials.remove(&connection_id) {
                    let _ = reply.send(Err(error.to_string()));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                eprintln!("inbound from {send_back_addr}: {error}");
            }
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                eprintln!("it listens no more at {addresses:?}: {error}");
            }
            SwarmEvent::Behaviour(event) => self.behaved(event),
            _ => {}
        }
    }

    fn behaved(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => self.learn(peer_id, info),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let mut peers: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
                for (peer, address) in found {
                    peers.entry(peer).or_default().push(address.to_string());
                }
                for (peer, addresses) in peers {
                    send(json!({ "event": "mdns", "peerId": peer.to_string(), "addresses": addresses }));
                }
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, .. }) => {
                self.progressed(id, result, step.last);
            }
            BehaviourEvent::AutonatClient(event) => {
                let (tested, reached) = differences::tested(event);
                let tested = vec![tested.to_string()];
                let (good, bad) = if reached { (tested, vec![]) } else { (vec![], tested) };
                send(json!({ "event": "checked", "reachable": good, "unreachable": bad }));
            }
            BehaviourEvent::Punching(event) => eprintln!("hole punching: {event:?}"),
            BehaviourEvent::Job(event) => self.requested(JOB, event),
            BehaviourEvent::Inference(event) => self.requested(INFERENCE, event),
            _ => {}
        }
    }

    fn learn(&mut self, peer: PeerId, info: identify::Info) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            if info.protocols.iter().any(|protocol| kad.protocol_names().contains(protocol)) {
                for address in &info.listen_addrs {
                    kad.add_address(&peer, address.clone());
                }
            }
        }
        let told = json!({
            "peerId": peer.to_string(),
            "agentVersion": info.agent_version,
            "protocolVersion": info.protocol_version,
            "protocols": info.protocols.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
            "addresses": info.listen_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "observedAddr": info.observed_addr.to_string(),
            "signedPeerRecord": false, // rust-libp2p reads none before 0.56, and the event is for what all can tell
        });
        let mut event = told.clone();
        event["event"] = "identify".into();
        self.identified.insert(peer, told);
        send(event);
    }

    fn requested(&mut self, protocol: &'static str, event: request_response::Event<Value, Value>) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                send(json!({
                    "event": "request", "peerId": peer.to_string(), "protocol": protocol, "message": request,
                }));
                // What it does not know it does not answer: the stream ends with the channel.
                let claim = request.get("JobClaim").and_then(|claim| claim.get("job_id"));
                if let (JOB, Some(job)) = (protocol, claim) {
                    let answer = json!({ "JobClaimAck": { "job_id": job, "accepted": true } });
                    if let Some(frames) = self.swarm.behaviour_mut().job.as_mut() {
                        if frames.send_response(channel, answer).is_err() {
                            eprintln!("{peer} went before its answer");
                        }
                    }
                }
            }
            request_response::Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.answer(protocol, request_id, Ok(json!({ "message": response })));
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.answer(protocol, request_id, Err(error.to_string()));
            }
            request_response::Event::InboundFailure { peer, error, .. } => eprintln!("request of {peer}: {error}"),
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn answer(&mut self, protocol: &'static str, id: OutboundRequestId, answer: Answer) {
        if let Some(reply) = self.requests.remove(&(protocol, id)) {
            let _ = reply.send(answer);
        }
    }

    fn progressed(&mut self, id: QueryId, result: QueryResult, last: bool) {
        let Some(query) = self.queries.remove(&id) else { return };
        let (reply, answer) = match (query, result) {
            (Query::Bootstrap(reply), QueryResult::Bootstrap(result)) => {
                if !last && result.is_ok() {
                    self.queries.insert(id, Query::Bootstrap(reply));
                    return;
                }
                (reply, result.map(|_| json!({})).map_err(|error| error.to_string()))
            }
            (Query::Find(peer, reply), QueryResult::GetClosestPeers(result)) => {
                let peers =
                    result.map_or_else(|kad::GetClosestPeersError::Timeout { peers, .. }| peers, |found| found.peers);
                let answer = differences::addresses_of(peer, peers).map(|found| {
                    let addresses: Vec<_> = found.iter().map(ToString::to_string).collect();
                    json!({ "peerId": peer.to_string(), "addresses": addresses })
                });
                (reply, answer.ok_or_else(|| format!("{peer} was not found")))
            }
            (Query::Get(reply), QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found)))) => {
                if let Some(mut query) = self.swarm.behaviour_mut().kad.as_mut().and_then(|kad| kad.query_mut(&id)) {
                    query.finish();
                }
                (reply, Ok(json!({ "value": STANDARD.encode(found.record.value) })))
            }
            (Query::Get(reply), QueryResult::GetRecord(Ok(_))) => (reply, Err("no such record was found".into())),
            (Query::Get(reply), QueryResult::GetRecord(Err(error))) => (reply, Err(error.to_string())),
            (Query::Provide(reply), QueryResult::StartProviding(result)) => {
                (reply, result.map(|_| json!({})).map_err(|error| error.to_string()))
            }
            (Query::Providers(mut all, reply), QueryResult::GetProviders(result)) => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    all.extend(providers);
                }
                if !last {
                    self.queries.insert(id, Query::Providers(all, reply));
                    return;
                }
                let mut providers: Vec<_> = all.iter().map(|peer| json!({ "peerId": peer.to_string() })).collect();
                providers.sort_by_key(ToString::to_string);
                (reply, Ok(json!({ "providers": providers })))
            }
            (Query::Put(reply), QueryResult::PutRecord(result)) => {
                (reply, result.map(|_| json!({})).map_err(|error| error.to_string()))
            }
            (query, _) => {
                self.queries.insert(id, query);
                return;
            }
        };
        let _ = reply.send(answer);
    }
}

impl Connection {
    fn described(&self) -> Value {
        let address = self.endpoint.get_remote_address();
        // rust-libp2p does not tell what a connection was secured with: over TCP and ws this peer offers one of each
        let quic = address.iter().any(|part| matches!(part, Protocol::QuicV1));
        json!({
            "peerId": self.peer.to_string(),
            "address": address.to_string(),
            "direction": if self.endpoint.is_dialer() { "outbound" } else { "inbound" },
            "encryption": if quic { None } else { Some(self.security) },
            "multiplexer": if quic { None } else { Some("/yamux/1.0.0") },
            "streams": null,
        })
    }
}

// ----------------------------------------------------------------------------------------------------------------
// arguments

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, String> {
    arguments[name].as_str().ok_or_else(|| format!("\"{name}\" must be a string"))
}

fn bytes(arguments: &Value, name: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text(arguments, name)?).map_err(|error| format!("\"{name}\" is no base64: {error}"))
}

fn peer_id(arguments: &Value) -> Result<PeerId, String> {
    text(arguments, "peerId")?.parse().map_err(|error| format!("\"peerId\": {error}"))
}

fn address(arguments: &Value) -> Result<Multiaddr, String> {
    text(arguments, "address")?.parse().map_err(|error| format!("\"address\": {error}"))
}

fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

fn echo_size(arguments: &Value) -> Result<usize, String> {
    arguments["bytes"]
        .as_u64()
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size <= streams::MAX_ECHO)
        .ok_or_else(|| format!("\"bytes\" must be a whole number from 0 to {}", streams::MAX_ECHO))
}
