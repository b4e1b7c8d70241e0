"""The configuration keys. Each is declared once, with its default and its check."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from fabstird.config import checks
from fabstird.config.checks import Check


def _key(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True)
class NodeConfig:
    auto_start: bool = _key(True, checks.boolean)
    listen_addresses: tuple[str, ...] = _key(("/ip4/0.0.0.0/tcp/0",), checks.multiaddrs("listen address"))
    announce_addresses: tuple[str, ...] = _key((), checks.multiaddrs("announce address"))
    announce_append: tuple[str, ...] = _key((), checks.multiaddrs("announce address"))
    bootstrap_nodes: tuple[str, ...] = _key((), checks.multiaddrs("bootstrap node", with_peer=True))
    security: tuple[Literal["noise", "tls"], ...] = _key(("noise", "tls"), checks.some_of("noise", "tls"))
    enable_dht: bool = _key(True, checks.boolean)
    enable_mdns: bool = _key(True, checks.boolean)
    dial_timeout: int = _key(30000, checks.duration)
    request_timeout: int = _key(60000, checks.duration)
    max_retries: int = _key(3, checks.count)
    retry_delay: int = _key(1000, checks.delay)
    keepalive_interval: int = _key(300000, checks.delay)


@dataclass(frozen=True, slots=True)
class ConnectionsConfig:
    low_water: int = _key(64, checks.count)
    high_water: int = _key(192, checks.size)
    max: int = _key(256, checks.size)
    max_per_ip: int = _key(32, checks.size)
    max_new_per_ip: int = _key(4, checks.count)
    grace_period: int = _key(20000, checks.delay)
    handshake_timeout: int = _key(10000, checks.duration)
    ping_interval: int = _key(15000, checks.duration)
    ping_timeout: int = _key(10000, checks.duration)
    idle_refresh: int = _key(90000, checks.delay)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    certificate: str = _key("", checks.path)
    key: str = _key("", checks.path)


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    trusted: tuple[str, ...] = _key((), checks.networks)


@dataclass(frozen=True, slots=True)
class NatConfig:
    hole_punching: bool = _key(True, checks.boolean)
    port_mapping: bool = _key(True, checks.boolean)
    autonat_service: bool = _key(True, checks.boolean)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    nodes: tuple[str, ...] = _key((), checks.relays)
    serve: bool = _key(False, checks.boolean)
    max_reservations: int = _key(128, checks.size)
    max_circuits: int = _key(16, checks.size)
    circuit_duration: int = _key(120000, checks.delay)
    circuit_bytes: int = _key(131072, checks.count)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    ipc: str = _key("auto", checks.ipc)
    ipc_mode: str = _key("0660", checks.file_mode)
    ipc_group_access: Literal["read", "write", "admin"] = _key("write", checks.one_of("read", "write", "admin"))
    http: str = _key("127.0.0.1:4780", checks.http)
    allowed_hosts: tuple[str, ...] = _key(("localhost", "127.0.0.1", "::1"), checks.hosts)
    allowed_origins: tuple[str, ...] = _key((), checks.origins)
    max_request_bytes: int = _key(1048576, checks.size)
    max_batch: int = _key(100, checks.size)
    max_request_values: int = _key(10000, checks.size)
    max_answer_bytes: int = _key(16777216, checks.size)
    max_calls: int = _key(64, checks.size)
    max_subscriptions: int = _key(128, checks.size)
    max_ipc_connections: int = _key(1024, checks.size)
    max_http_connections: int = _key(1024, checks.size)
    max_send_queue_bytes: int = _key(33554432, checks.size)
    send_timeout: int = _key(60000, checks.duration)
    header_timeout: int = _key(10000, checks.duration)
    body_timeout: int = _key(30000, checks.duration)
    idle_timeout: int = _key(60000, checks.duration)
    ping_interval: int = _key(30000, checks.duration)
    max_tokens: int = _key(256, checks.size)
    bridge: bool = _key(False, checks.boolean)
    ui: bool = _key(True, checks.boolean)


@dataclass(frozen=True, slots=True)
class EventsConfig:
    history: int = _key(8192, checks.size)
    max_bytes: int = _key(16777216, checks.size)
    heartbeat: int = _key(15000, checks.duration)


@dataclass(frozen=True, slots=True)
class StreamsConfig:
    max_message_bytes: int = _key(1048576, checks.size)
    max_waiting: int = _key(64, checks.size)
    max_open: int = _key(1024, checks.size)
    max_open_per_peer: int = _key(128, checks.size)
    perf: bool = _key(False, checks.boolean)


@dataclass(frozen=True, slots=True)
class TunnelsConfig:
    allow: tuple[str, ...] = _key((), checks.tunnel_rules)


@dataclass(frozen=True, slots=True)
class DhtConfig:
    mode: Literal["auto", "server", "client"] = _key("auto", checks.one_of("auto", "server", "client"))
    max_value_bytes: int = _key(10240, checks.size)
    discover_ttl: int = _key(300000, checks.delay)


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", checks.one_of("debug", "info", "warning", "error")
    )
    format: Literal["auto", "console", "json"] = _key("auto", checks.one_of("auto", "console", "json"))


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration of a daemon; durations are milliseconds. config.example.toml describes every key."""

    node: NodeConfig = NodeConfig()
    connections: ConnectionsConfig = ConnectionsConfig()
    tls: TlsConfig = TlsConfig()
    proxy: ProxyConfig = ProxyConfig()
    nat: NatConfig = NatConfig()
    relay: RelayConfig = RelayConfig()
    api: ApiConfig = ApiConfig()
    events: EventsConfig = EventsConfig()
    streams: StreamsConfig = StreamsConfig()
    tunnels: TunnelsConfig = TunnelsConfig()
    dht: DhtConfig = DhtConfig()
    log: LogConfig = LogConfig()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As `config()` and ``check-config`` show it, under the keys of the file."""
        shown: dict[str, dict[str, Any]] = dataclasses.asdict(self)
        return {
            section: {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
            for section, keys in shown.items()
        }


SECTIONS: dict[str, Any] = {
    "node": NodeConfig,
    "connections": ConnectionsConfig,
    "tls": TlsConfig,
    "proxy": ProxyConfig,
    "nat": NatConfig,
    "relay": RelayConfig,
    "api": ApiConfig,
    "events": EventsConfig,
    "streams": StreamsConfig,
    "tunnels": TunnelsConfig,
    "dht": DhtConfig,
    "log": LogConfig,
}
CHECKS: dict[str, dict[str, Check]] = {
    section: {key.name: key.metadata["check"] for key in dataclasses.fields(cls)} for section, cls in SECTIONS.items()
}
