//! The Fabstir node's messages: a 4-byte big-endian length, then that many bytes of JSON, at most 1 MiB.

use crate::differences::asynchronous;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::request_response::Codec;
use libp2p::StreamProtocol;
use serde_json::Value;
use std::io;

pub const JOB: &str = "/fabstir/job/1.0.0";
pub const INFERENCE: &str = "/fabstir/inference/1.0.0";
pub const MAX_FRAME: usize = 1024 * 1024;

#[derive(Clone, Default)]
pub struct Frames;

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Value> {
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

async fn write<T: AsyncWrite + Unpin + Send>(io: &mut T, message: Value) -> io::Result<()> {
    let body = serde_json::to_vec(&message)?;
    if body.len() > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {} bytes", body.len())));
    }
    io.write_all(&(body.len() as u32).to_be_bytes()).await?;
    io.write_all(&body).await?;
    io.flush().await
}

asynchronous! {
    impl Codec for Frames {
        type Protocol = StreamProtocol;
        type Request = Value;
        type Response = Value;

        async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Value> {
            read(io).await
        }

        async fn read_response<T: AsyncRead + Unpin + Send>(
            &mut self,
            _: &StreamProtocol,
            io: &mut T,
        ) -> io::Result<Value> {
            read(io).await
        }

        async fn write_request<T: AsyncWrite + Unpin + Send>(
            &mut self,
            _: &StreamProtocol,
            io: &mut T,
            message: Value,
        ) -> io::Result<()> {
            write(io, message).await
        }

        async fn write_response<T: AsyncWrite + Unpin + Send>(
            &mut self,
            _: &StreamProtocol,
            io: &mut T,
            message: Value,
        ) -> io::Result<()> {
            write(io, message).await
        }
    }
}
