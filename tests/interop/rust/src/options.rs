//! What the peer is told at its start: ../../README.md has the table.

use serde::Deserialize;

pub const IDENTIFY: &str = "/ipfs/id/1.0.0";
pub const IDENTIFY_PUSH: &str = "/ipfs/id/push/1.0.0";
pub const PING: &str = "/ipfs/ping/1.0.0";
pub const ECHO: &str = "/fabstir-interop/echo/1.0.0";

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtMode {
    Client,
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    Noise,
    Tls,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AutoNat {
    Client,
    Server,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    #[serde(default)]
    pub listen: Vec<String>,
    pub agent_version: Option<String>,
    pub protocol_version: Option<String>,
    pub protocols: Option<Vec<String>>,
    pub seed: Option<String>,
    pub dht: Option<DhtMode>,
    pub autonat: Option<AutoNat>,
    #[serde(default)]
    pub mdns: bool,
    /// ms between two mDNS queries
    pub mdns_interval: Option<u64>,
    /// ms
    pub idle_timeout: Option<u64>,
    /// "noise" and "tls", the one to ask for first in front
    pub security: Option<Vec<Security>>,
    /// PEM files, with which it listens inside TLS
    pub web_certificate: Option<String>,
    pub web_key: Option<String>,
    #[serde(default)]
    pub hole_punching: bool,
    /// relays at which to reserve a place
    #[serde(default)]
    pub relay_via: Vec<String>,
    #[serde(default)]
    pub fabstir_node: bool,
}

impl Options {
    pub fn read(text: &str) -> Result<Self, String> {
        let mut options: Self = serde_json::from_str(text).map_err(|error| format!("options: {error}"))?;
        if options.fabstir_node {
            options.agent_version.get_or_insert_with(|| "fabstir-llm-node/1.0.0".into());
            options.protocol_version.get_or_insert_with(|| "/fabstir/id/1.0.0".into());
            options.protocols.get_or_insert_with(|| vec![IDENTIFY.into(), IDENTIFY_PUSH.into()]);
            options.dht.get_or_insert(DhtMode::Server);
            options.idle_timeout.get_or_insert(120_000);
        }
        Ok(options)
    }

    pub fn protocols(&self) -> Vec<String> {
        self.protocols.clone().unwrap_or_else(|| [IDENTIFY, IDENTIFY_PUSH, PING, ECHO].map(String::from).to_vec())
    }

    pub fn security(&self) -> &[Security] {
        self.security.as_deref().unwrap_or(&[Security::Noise])
    }

    pub fn seed(&self) -> Result<Option<[u8; 32]>, String> {
        let Some(text) = &self.seed else { return Ok(None) };
        let bytes: Option<Vec<u8>> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
        match bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(seed) => Ok(Some(seed)),
            None => Err("\"seed\" must be 64 hex digits".into()),
        }
    }
}
