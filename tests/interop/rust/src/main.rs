//! A libp2p peer that does what it is told: one JSON command a line on stdin, one JSON answer or event a line on stdout.
//! The protocol is described in ../../README.md and is the same for every implementation. Logs go to stderr.

mod differences;
mod ends;
mod frames;
mod node;
mod options;
mod peer;
mod streams;

use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, StreamProtocol};
use options::{Options, IDENTIFY, IDENTIFY_PUSH, PING};
use peer::{send, Answer, Peer};
use serde_json::{json, Value};
use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::{mpsc, oneshot, watch};

const DEFAULT_TIMEOUT: u64 = 10_000; // ms, for a command that names none
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2); // that a clean stop may take
const LOCKED: &str = include_str!("../Cargo.lock");

struct Command {
    name: String,
    arguments: Value,
    reply: oneshot::Sender<Answer>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run().await {
        eprintln!("{error}");
        std::process::exit(1);
    }
    std::process::exit(0); // a blocking read of stdin would keep the runtime
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let given = match std::env::args().nth(1) {
        Some(text) => text,
        None => match input.next_line().await? {
            Some(text) => text,
            None => return Ok(()),
        },
    };
    let options = Options::read(&given)?;
    let mut swarm = node::swarm(&options)?;
    let released = watch::Sender::new(0);
    for name in options.protocols() {
        if ![IDENTIFY, IDENTIFY_PUSH, PING].contains(&name.as_str()) {
            let incoming =
                swarm.behaviour().streams.new_control().accept(StreamProtocol::try_from_owned(name.clone())?)?;
            tokio::spawn(ends::serve(name, incoming, released.subscribe()));
        }
    }
    let mut waiting = HashSet::new();
    for address in &options.listen {
        waiting.insert(swarm.listen_on(address.parse()?)?);
    }
    let mut peer = Peer::new(swarm, options.security()[0], released);
    while !waiting.is_empty() {
        let event = peer.swarm.select_next_some().await;
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. } => drop(waiting.remove(listener_id)),
            SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } if waiting.contains(listener_id) => {
                return Err(format!("cannot listen: {error}").into());
            }
            SwarmEvent::ListenerError { error, .. } => return Err(format!("cannot listen: {error}").into()),
            _ => {}
        }
        peer.take(event);
    }
    for relay in &options.relay_via {
        // where it has dialled it and has a place there, it listens
        peer.swarm.listen_on(relay.parse::<Multiaddr>()?.with(Protocol::P2pCircuit))?;
    }
    send(json!({
        "event": "ready",
        "peerId": peer.swarm.local_peer_id().to_string(),
        "addresses": peer.addresses(),
        "implementation": format!("rust-libp2p/{}", libp2p_version()),
        "runtime": concat!("rust/", env!("RUSTC_USED")),
    }));

    let (commands, mut told) = mpsc::channel::<Command>(64);
    let (exit, mut exited) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        while let Ok(Some(line)) = input.next_line().await {
            if !line.trim().is_empty() && !obey(&line, &commands).await {
                break;
            }
        }
        let _ = exit.send(()).await;
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            event = peer.swarm.select_next_some() => peer.take(event),
            Some(command) = told.recv() => peer.obey(&command.name, &command.arguments, command.reply),
            _ = exited.recv() => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let connected: Vec<_> = peer.swarm.connected_peers().copied().collect();
    for other in connected {
        let _ = peer.swarm.disconnect_peer_id(other); // an error says that it has gone already
    }
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        while peer.swarm.network_info().num_peers() > 0 {
            let event = peer.swarm.select_next_some().await;
            peer.take(event);
        }
    })
    .await;
    Ok(())
}

/// The one that it is built with. All versions share what they compile, and with it the output of the build script, which
/// is no place for this.
fn libp2p_version() -> &'static str {
    let found = LOCKED.split_once("name = \"libp2p\"\nversion = \"").and_then(|(_, rest)| rest.split_once('"'));
    found.map_or("unknown", |(version, _)| version)
}

/// Begins what one line asks for; its answer is written when it is there, or its time is up. False after `exit`.
async fn obey(line: &str, commands: &mpsc::Sender<Command>) -> bool {
    let mut arguments = match serde_json::from_str::<Value>(line) {
        Ok(value) if value.is_object() => value,
        Ok(_) => {
            send(json!({ "id": null, "ok": false, "error": "a command is a JSON object" }));
            return true;
        }
        Err(error) => {
            send(json!({ "id": null, "ok": false, "error": error.to_string() }));
            return true;
        }
    };
    let id = arguments["id"].take();
    let name = arguments["cmd"].as_str().unwrap_or_default().to_owned();
    if name == "exit" {
        send(json!({ "id": id, "ok": true, "result": {} }));
        return false;
    }
    let timeout = Duration::from_millis(arguments["timeout"].as_u64().unwrap_or(DEFAULT_TIMEOUT));
    let (reply, answer) = oneshot::channel();
    if commands.send(Command { name, arguments, reply }).await.is_err() {
        return false;
    }
    tokio::spawn(async move {
        let answer = match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("it ended without an answer".into()),
            Err(_) => Err(format!("timed out after {} ms", timeout.as_millis())),
        };
        match answer {
            Ok(result) => send(json!({ "id": id, "ok": true, "result": result })),
            Err(error) => send(json!({ "id": id, "ok": false, "error": error })),
        }
    });
    true
}
