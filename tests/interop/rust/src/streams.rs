//! What the commands do on a stream of their own: echo, ping, and asking identify.

use crate::options::{IDENTIFY, PING};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::identity::PublicKey;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use rand::RngCore;
use serde_json::{json, Value};
use std::time::Instant;

pub const MAX_ECHO: usize = 64 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
const MAX_IDENTIFY: u64 = 64 * 1024;

pub async fn open(control: &mut Control, peer: PeerId, protocol: &str) -> Result<Stream, String> {
    let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).map_err(|error| error.to_string())?;
    control.open_stream(peer, protocol).await.map_err(|error| error.to_string())
}

pub async fn echo_back(stream: Stream) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = reader.read(&mut chunk).await?;
        if length == 0 {
            return writer.close().await;
        }
        writer.write_all(&chunk[..length]).await?;
        writer.flush().await?;
    }
}

pub async fn echo(control: &mut Control, peer: PeerId, protocol: &str, size: usize) -> Result<Value, String> {
    let mut sent = vec![0; size];
    rand::thread_rng().fill_bytes(&mut sent);
    let start = Instant::now();
    let (mut reader, mut writer) = open(control, peer, protocol).await?.split();
    let send = async {
        for chunk in sent.chunks(CHUNK) {
            writer.write_all(chunk).await?;
        }
        writer.close().await
    };
    let mut back = Vec::with_capacity(size);
    let (out, received) = futures::join!(send, reader.read_to_end(&mut back));
    out.map_err(|error| format!("sending: {error}"))?;
    received.map_err(|error| format!("receiving: {error}"))?;
    if back.len() != size {
        return Err(format!("{size} bytes went out, {} came back", back.len()));
    }
    if back != sent {
        return Err("other bytes came back".into());
    }
    Ok(json!({ "bytes": size, "ms": milliseconds(start) }))
}

pub async fn ping(control: &mut Control, peer: PeerId) -> Result<Value, String> {
    let mut sent = [0; 32];
    rand::thread_rng().fill_bytes(&mut sent);
    let start = Instant::now();
    let mut stream = open(control, peer, PING).await?;
    let mut back = [0; 32];
    let exchange = async {
        stream.write_all(&sent).await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await
    };
    exchange.await.map_err(|error| error.to_string())?;
    let rtt = milliseconds(start);
    stream.close().await.map_err(|error| error.to_string())?;
    if back != sent {
        return Err("other bytes came back".into());
    }
    Ok(json!({ "rtt": rtt }))
}

/// Asks now: libp2p's own behaviour asks when it sees fit, so this reads the message of the identify specification.
pub async fn identify(control: &mut Control, peer: PeerId) -> Result<Value, String> {
    let stream = open(control, peer, IDENTIFY).await?;
    let mut bytes = Vec::new();
    stream.take(MAX_IDENTIFY).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
    let mut rest = bytes.as_slice();
    let length = varint(&mut rest).ok_or("identify: no length")? as usize;
    let message = rest.get(..length).ok_or("identify: the message is cut short")?;
    described(peer, message).ok_or_else(|| "identify: no such message".into())
}

fn described(peer: PeerId, mut rest: &[u8]) -> Option<Value> {
    let mut told = json!({
        "peerId": peer.to_string(), "agentVersion": null, "protocolVersion": null, "protocols": [], "addresses": [],
        "observedAddr": null, "signedPeerRecord": false,
    });
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        if tag & 7 != 2 {
            return None; // every field of it is a length and bytes
        }
        let length = varint(&mut rest)? as usize;
        let field = rest.get(..length)?;
        rest = &rest[length..];
        let text = || String::from_utf8(field.to_vec()).ok();
        let address = || Multiaddr::try_from(field.to_vec()).ok().map(|address| address.to_string());
        match tag >> 3 {
            1 if PublicKey::try_decode_protobuf(field).ok()?.to_peer_id() != peer => return None,
            2 => told["addresses"].as_array_mut()?.push(address()?.into()),
            3 => told["protocols"].as_array_mut()?.push(text()?.into()),
            4 => told["observedAddr"] = address().into(),
            5 => told["protocolVersion"] = text()?.into(),
            6 => told["agentVersion"] = text()?.into(),
            8 => told["signedPeerRecord"] = true.into(),
            _ => {}
        }
    }
    Some(told)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (first, others) = rest.split_first()?;
        *rest = others;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
