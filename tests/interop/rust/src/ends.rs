//! Protocols that the peer serves, and commands on streams, for tests of what streams promise: half-close, resets,
//! back-pressure, many at once; and libp2p's perf.

use crate::options::ECHO;
use crate::peer::send;
use crate::streams::{echo_back, open};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream};
use libp2p_stream::{Control, IncomingStreams};
use rand::RngCore;
use serde_json::{json, Value};
use sha2::{Digest, Sha256};
use std::io;
use std::time::Instant;
use tokio::sync::watch;

const DIGEST: &str = "/fabstir-interop/digest/1.0.0";
const HOLD: &str = "/fabstir-interop/hold/1.0.0";
const PERF: &str = "/perf/1.0.0";
const RESET: &str = "/fabstir-interop/reset/1.0.0";
const SINK: &str = "/fabstir-interop/sink/1.0.0";
const BLOCK: usize = 64 * 1024;

/// Serves a protocol; one that is not known is an echo. `released` changes with each command `release`.
pub async fn serve(name: String, mut incoming: IncomingStreams, released: watch::Receiver<u64>) {
    while let Some((peer, stream)) = incoming.next().await {
        let (name, mut released) = (name.clone(), released.clone());
        released.mark_unchanged();
        tokio::spawn(async move {
            let done = match name.as_str() {
                DIGEST => digest(stream).await,
                HOLD => {
                    let _ = released.changed().await;
                    sink(peer, HOLD, stream, false).await
                }
                PERF => serve_perf(stream).await,
                RESET => cut(stream).await,
                SINK => sink(peer, SINK, stream, true).await,
                _ => echo_back(stream).await,
            };
            if let Err(error) = done {
                eprintln!("{name} for {peer}: {error}");
            }
        });
    }
}

/// Answers when the other side has ended its own.
async fn digest(mut stream: Stream) -> io::Result<()> {
    let (_, sum, failed) = taken(&mut stream).await;
    failed.map_or(Ok(()), Err)?;
    stream.write_all(&sum).await?;
    stream.close().await
}

/// Tells what has come; ends its own side at once, or after that.
async fn sink(peer: PeerId, protocol: &str, mut stream: Stream, at_once: bool) -> io::Result<()> {
    if at_once {
        stream.close().await?;
    }
    let (bytes, sum, failed) = taken(&mut stream).await;
    // A reset ends the reading like an end: only what is written shows it.
    let failed = failed.or(if at_once { None } else { told(&mut stream).await.err() });
    send(json!({
        "event": "stream", "peerId": peer.to_string(), "protocol": protocol,
        "bytes": bytes, "sha256": hex(&sum), "reset": failed.is_some(),
    }));
    if at_once {
        Ok(())
    } else {
        stream.close().await
    }
}

async fn told(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(b".").await?;
    stream.flush().await
}

/// A stream that is dropped before it was closed is reset.
async fn cut(mut stream: Stream) -> io::Result<()> {
    stream.read(&mut [0; BLOCK]).await.map(drop)
}

async fn serve_perf(mut stream: Stream) -> io::Result<()> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let mut chunk = vec![0; BLOCK];
    while stream.read(&mut chunk).await? > 0 {}
    zeros(&mut stream, u64::from_be_bytes(head)).await?;
    stream.close().await
}

async fn zeros(stream: &mut Stream, mut left: u64) -> io::Result<()> {
    let block = vec![0; BLOCK];
    while left > 0 {
        let size = left.min(BLOCK as u64);
        stream.write_all(&block[..size as usize]).await?;
        left -= size;
    }
    stream.flush().await
}

async fn taken(stream: &mut Stream) -> (usize, Vec<u8>, Option<io::Error>) {
    let (mut sum, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; BLOCK]);
    let failed = loop {
        match stream.read(&mut chunk).await {
            Ok(0) => break None,
            Ok(size) => {
                sum.update(&chunk[..size]);
                bytes += size;
            }
            Err(error) => break Some(error),
        }
    };
    (bytes, sum.finalize().to_vec(), failed)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---------------------------------------------------------------------------------------------------------------------
// commands

fn count(arguments: &Value, name: &str, most: u64) -> Result<u64, String> {
    arguments[name]
        .as_u64()
        .filter(|count| *count <= most)
        .ok_or_else(|| format!("\"{name}\" must be a whole number from 0 to {most}"))
}

/// Sends random bytes, ends its side or cuts the stream when it has an answer, and says what has come back.
pub async fn exchange(control: &mut Control, peer: PeerId, arguments: &Value) -> Result<Value, String> {
    let mut sent = vec![0; count(arguments, "bytes", 64 << 20)? as usize];
    rand::thread_rng().fill_bytes(&mut sent);
    let digest = hex(&Sha256::digest(&sent));
    let mut stream = open(control, peer, arguments["protocol"].as_str().unwrap_or(ECHO)).await?;
    let early = if arguments["first"] == "read" { Some(taken(&mut stream).await) } else { None };
    let mut written = stream.write_all(&sent).await;
    if arguments["end"] == "reset" {
        let _ = stream.flush().await;
        let _ = stream.read(&mut [0]).await;
        return Ok(json!({ "sent": digest }));
    }
    if written.is_ok() {
        written = stream.close().await;
    }
    let (bytes, sum, failed) = match early {
        Some(early) => early,
        None => taken(&mut stream).await,
    };
    Ok(json!({ "sent": digest, "bytes": bytes, "sha256": hex(&sum), "reset": failed.is_some() || written.is_err() }))
}

/// So many streams open at once; each gets a byte back.
pub async fn streams(control: &mut Control, peer: PeerId, arguments: &Value) -> Result<Value, String> {
    let protocol = arguments["protocol"].as_str().unwrap_or(ECHO);
    let mut all = Vec::new();
    for at in 0..count(arguments, "count", 1024)? {
        let mut stream = open(control, peer, protocol).await?;
        stream.write_all(&[at as u8]).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        all.push(stream);
    }
    let opened = all.len();
    for (at, mut stream) in all.into_iter().enumerate() {
        stream.close().await.map_err(|error| error.to_string())?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.map_err(|error| error.to_string())?;
        if back != [at as u8] {
            return Err(format!("stream {at} got {back:?} back"));
        }
    }
    Ok(json!({ "count": opened }))
}

/// libp2p's perf: sends, ends its side, and gets what it has asked for.
pub async fn perf(control: &mut Control, peer: PeerId, arguments: &Value) -> Result<Value, String> {
    let (upload, download) = (count(arguments, "upload", 1 << 40)?, count(arguments, "download", 1 << 40)?);
    let mut stream = open(control, peer, PERF).await?;
    let start = Instant::now();
    let measured = async {
        stream.write_all(&download.to_be_bytes()).await?;
        zeros(&mut stream, upload).await?;
        stream.close().await?;
        let (mut came, mut chunk) = (stream.read(&mut [0; 1]).await? as u64, vec![0; BLOCK]);
        let turned = Instant::now();
        loop {
            match stream.read(&mut chunk).await? {
                0 => return io::Result::Ok((came, turned)),
                size => came += size as u64,
            }
        }
    };
    let (came, turned) = measured.await.map_err(|error| error.to_string())?;
    if came != download {
        return Err(format!("{came} of {download} bytes came"));
    }
    Ok(json!({ "upload": (turned - start).as_secs_f64(), "download": turned.elapsed().as_secs_f64() }))
}
