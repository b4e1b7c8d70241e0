"""Configuration: what may be set, what is right, and where a wrong value came from.

Every key is declared once, with its default and its check. Sources are laid over each other in CONTRACT's order
(defaults, file, ``FABSTIRD_<SECTION>__<KEY>`` variables, ``--set``); all mistakes of all sources are reported together
and nothing is half-applied. No I/O but reading the file, no import beyond the standard library: this runs first.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path("/etc/fabstird/config.toml")
LARGEST = 2**53 - 1  # the numbers that every JSON parser holds exactly, and float arithmetic too
MAX_RELAYS = 8  # reservations that a node may hold
MULTIADDR_PREFIXES = ("/ip4/", "/ip6/", "/dns/", "/dns4/", "/dns6/", "/dnsaddr/")
Check = Callable[[Any], Any]


class ConfigError(Exception):
    """One or more mistakes; ``mistakes`` has one line for each, naming the source, the key and what would be right."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = [_one_line(mistake) for mistake in mistakes]
        super().__init__("\n".join(self.mistakes))


def _one_line(text: str) -> str:
    """A value may hold newlines and a terminal's control characters; a line about it does not."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


# --------------------------------------------------------------------------------------------------------------------
# Checks: value -> value as it is stored, or ValueError with one argument a mistake that says what would be right


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def _integer(low: int, what: str) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ValueError(f"must be {what}, not {_shown(value)}")
        if value > LARGEST:
            raise ValueError(f"must be {what}, and {LARGEST} at most")
        return value

    return check


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be an array of strings, not {_shown(value)}")
    return tuple(dict.fromkeys(value))


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {_shown(value)}")
        return str(value)

    return check


def _multiaddrs(what: str, *, with_peer: bool = False) -> Check:
    """An array of multiaddrs, each once. Only what CONTRACT's rules say is refused here: a well-begun address that
    turns out to be undialable is an event, not a mistake of the configuration."""

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be an array of multiaddrs, not {_shown(value)}")
        wrong = [problem for item in value if (problem := _multiaddr_problem(what, item, with_peer))]
        if wrong:
            raise ValueError(*wrong)
        return tuple(dict.fromkeys(value))

    return check


def _relays(value: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = _multiaddrs("relay", with_peer=True)(value)
    nameless = [text for text in found if "/p2p/" not in text]
    if nameless:
        raise ValueError(*(f'invalid relay "{text}": must name the peer: …/p2p/<peer id>' for text in nameless))
    if len(found) > MAX_RELAYS:
        raise ValueError(f"must be {MAX_RELAYS} relays at most, not {len(found)}")
    return found


def _multiaddr_problem(what: str, value: Any, with_peer: bool) -> str | None:
    if not isinstance(value, str) or not value.startswith(MULTIADDR_PREFIXES):
        return f'invalid {what} "{value}": must be a multiaddr that begins with one of {" ".join(MULTIADDR_PREFIXES)}'
    if with_peer and "/p2p/" not in value and not value.startswith("/dnsaddr/"):
        return f'invalid {what} "{value}": must name the peer: {value.rstrip("/")}/p2p/<peer id>'
    return None


def _ipc(value: Any) -> str:
    if not isinstance(value, str) or not (value in ("", "auto") or value.startswith("/")):
        raise ValueError(f'must be an absolute path, "auto", or "" for none, not {_shown(value)}')
    return value


def _file_mode(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'must be an octal file mode such as "0660", not {_shown(value)}')
    return value


def _http(value: Any) -> str:
    if value == "":
        return ""
    if isinstance(value, str) and value.startswith("unix:/"):
        return value
    if not isinstance(value, str) or split_host_port(value) is None:
        raise ValueError(f'must be "host:port", "[ipv6]:port", "unix:/path", or "" for none, not {_shown(value)}')
    return value


def split_host_port(text: str) -> tuple[str, int] | None:
    """``127.0.0.1:4780`` or ``[::1]:4780`` as ``(host, port)``; None where it is neither."""
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[0-9]{1,5})", text)
    if match is None or int(match["port"]) > 65535:
        return None
    if match["six"] is not None:
        try:
            ipaddress.IPv6Address(match["six"])
        except ValueError:
            return None
    return match["six"] or match["host"], int(match["port"])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


_duration = _integer(1, "a positive integer of milliseconds")
_delay = _integer(0, "an integer of milliseconds, 0 or more")
_count = _integer(0, "an integer, 0 or more")
_size = _integer(1, "a positive integer")


def _key(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


# --------------------------------------------------------------------------------------------------------------------
# The keys


@dataclass(frozen=True, slots=True)
class NodeConfig:
    auto_start: bool = _key(True, _boolean)
    listen_addresses: tuple[str, ...] = _key(("/ip4/0.0.0.0/tcp/0",), _multiaddrs("listen address"))
    announce_addresses: tuple[str, ...] = _key((), _multiaddrs("announce address"))
    bootstrap_nodes: tuple[str, ...] = _key((), _multiaddrs("bootstrap node", with_peer=True))
    enable_dht: bool = _key(True, _boolean)
    enable_mdns: bool = _key(True, _boolean)
    dial_timeout: int = _key(30000, _duration)
    request_timeout: int = _key(60000, _duration)
    max_retries: int = _key(3, _count)
    retry_delay: int = _key(1000, _delay)
    keepalive_interval: int = _key(300000, _delay)


@dataclass(frozen=True, slots=True)
class ConnectionsConfig:
    low_water: int = _key(64, _count)
    high_water: int = _key(192, _size)
    max: int = _key(256, _size)
    max_per_ip: int = _key(32, _size)
    grace_period: int = _key(20000, _delay)
    handshake_timeout: int = _key(10000, _duration)
    ping_interval: int = _key(15000, _duration)
    ping_timeout: int = _key(10000, _duration)
    idle_refresh: int = _key(45000, _delay)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    nodes: tuple[str, ...] = _key((), _relays)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    ipc: str = _key("auto", _ipc)
    ipc_mode: str = _key("0660", _file_mode)
    ipc_group_access: str = _key("write", _one_of("read", "write", "admin"))
    http: str = _key("127.0.0.1:4780", _http)
    allowed_hosts: tuple[str, ...] = _key(("localhost", "127.0.0.1", "::1"), _strings)
    allowed_origins: tuple[str, ...] = _key((), _strings)
    max_request_bytes: int = _key(1048576, _size)
    max_batch: int = _key(100, _size)
    max_request_values: int = _key(10000, _size)
    max_answer_bytes: int = _key(16777216, _size)
    max_calls: int = _key(64, _size)
    max_subscriptions: int = _key(128, _size)
    max_ipc_connections: int = _key(1024, _size)
    max_http_connections: int = _key(1024, _size)
    max_send_queue_bytes: int = _key(33554432, _size)
    send_timeout: int = _key(60000, _duration)
    header_timeout: int = _key(10000, _duration)
    body_timeout: int = _key(30000, _duration)
    idle_timeout: int = _key(60000, _duration)
    max_tokens: int = _key(256, _size)
    bridge: bool = _key(False, _boolean)


@dataclass(frozen=True, slots=True)
class EventsConfig:
    history: int = _key(8192, _size)
    heartbeat: int = _key(15000, _duration)


@dataclass(frozen=True, slots=True)
class StreamsConfig:
    max_message_bytes: int = _key(1048576, _size)
    max_waiting: int = _key(64, _size)


@dataclass(frozen=True, slots=True)
class DhtConfig:
    mode: str = _key("auto", _one_of("auto", "server", "client"))
    max_value_bytes: int = _key(10240, _size)


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: str = _key("info", _one_of("debug", "info", "warning", "error"))
    format: str = _key("auto", _one_of("auto", "console", "json"))


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration of a daemon; durations are milliseconds. config.example.toml describes every key."""

    node: NodeConfig = NodeConfig()
    connections: ConnectionsConfig = ConnectionsConfig()
    relay: RelayConfig = RelayConfig()
    api: ApiConfig = ApiConfig()
    events: EventsConfig = EventsConfig()
    streams: StreamsConfig = StreamsConfig()
    dht: DhtConfig = DhtConfig()
    log: LogConfig = LogConfig()

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Under the file's own keys, as ``config()`` and ``check-config`` show it."""
        shown: dict[str, dict[str, Any]] = dataclasses.asdict(self)
        return {
            section: {key: list(value) if isinstance(value, tuple) else value for key, value in keys.items()}
            for section, keys in shown.items()
        }


_SECTIONS: dict[str, Any] = {
    "node": NodeConfig,
    "connections": ConnectionsConfig,
    "relay": RelayConfig,
    "api": ApiConfig,
    "events": EventsConfig,
    "streams": StreamsConfig,
    "dht": DhtConfig,
    "log": LogConfig,
}
_CHECKS: dict[str, dict[str, Check]] = {
    section: {key.name: key.metadata["check"] for key in dataclasses.fields(cls)} for section, cls in _SECTIONS.items()
}

# --------------------------------------------------------------------------------------------------------------------
# Sources


@dataclass(frozen=True, slots=True)
class _Setting:
    source: str
    section: str
    key: str
    value: Any


def load(
    file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Iterable[str] = (),
) -> Config:
    """The effective configuration. ``file`` is ``--config``; ``overrides`` are the texts of ``--set``.

    Raises `ConfigError` with every mistake of every source.
    """
    mistakes: list[str] = []
    settings = _from_file(_find_file(file, environ), mistakes)
    settings += _from_environment(environ, mistakes)
    settings += _from_options(overrides, mistakes)

    values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    sources: dict[tuple[str, str], str] = {}
    for setting in settings:
        where = f"{setting.source}: {setting.section}.{setting.key}"
        try:
            values[setting.section][setting.key] = _CHECKS[setting.section][setting.key](setting.value)
            sources[setting.section, setting.key] = setting.source
        except ValueError as error:
            mistakes += [f"{where}: {line}" for line in error.args]
    _follow_lower_limits(values["connections"])
    config = Config(**{section: cls(**values[section]) for section, cls in _SECTIONS.items()})
    if not mistakes:
        mistakes = _contradictions(config, sources)
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _follow_lower_limits(connections: dict[str, Any]) -> None:
    """A watermark that nobody set comes down with the limit above it: ``max = 20`` alone is a whole configuration."""
    defaults = ConnectionsConfig()
    for lower, upper in (("high_water", "max"), ("low_water", "high_water")):
        ceiling = connections.get(upper, getattr(defaults, upper))
        if lower not in connections and getattr(defaults, lower) > ceiling:
            connections[lower] = ceiling


def _contradictions(config: Config, sources: Mapping[tuple[str, str], str]) -> list[str]:
    connections, wrong = config.connections, []
    for lower, upper in (("low_water", "high_water"), ("high_water", "max")):
        low, high = getattr(connections, lower), getattr(connections, upper)
        if low > high:
            source = sources.get(("connections", lower)) or sources.get(("connections", upper)) or "defaults"
            wrong.append(f"{source}: connections.{lower}: must not exceed connections.{upper} ({high}), but is {low}")
    return wrong


def override_node(node: NodeConfig, overrides: Mapping[str, Any]) -> NodeConfig:
    """``node`` with the camelCase keys of ``start(config)`` laid over it; null leaves a key as it is.

    Raises `ConfigError`, one line a mistake.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for name, value in overrides.items():
        key = _OVERRIDES.get(name)
        if key is None:
            mistakes.append(f"config.{name}: unknown key; known are {', '.join(_OVERRIDES)}")
        elif value is not None:
            try:
                values[key] = _CHECKS["node"][key](value)
            except ValueError as error:
                mistakes += [f"config.{name}: {line}" for line in error.args]
    if mistakes:
        raise ConfigError(mistakes)
    return dataclasses.replace(node, **values)


_OVERRIDES = {
    "bootstrapNodes": "bootstrap_nodes",
    "listenAddresses": "listen_addresses",
    "enableDHT": "enable_dht",
    "enableMDNS": "enable_mdns",
    "dialTimeout": "dial_timeout",
    "requestTimeout": "request_timeout",
    "maxRetries": "max_retries",
    "retryDelay": "retry_delay",
}


def _find_file(file: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return Path(file)
    if environ.get("FABSTIRD_CONFIG"):
        return Path(environ["FABSTIRD_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _from_file(path: Path | None, mistakes: list[str]) -> list[_Setting]:
    if path is None:
        return []
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        mistakes.append(f"{path}: cannot be read: {error.strerror}")
        return []
    except UnicodeDecodeError as error:
        mistakes.append(f"{path}: is not UTF-8 text (byte {error.start})")
        return []
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits is another
        mistakes.append(f"{path}: is not TOML: {error}")
        return []
    settings = []
    for section, table in tables.items():
        if section in _SECTIONS and not isinstance(table, dict):
            mistakes.append(f"{path}: {section}: must be a table: [{section}]")
        elif isinstance(table, dict):
            known = [_Setting(str(path), section, key, v) for key, v in table.items() if _known(section, key)]
            settings += known
            mistakes += [
                f"{path}: {section}.{key}: {_unknown(section)}" for key in table if not _known(section, key)
            ] or ([f"{path}: [{section}]: {_unknown(section)}"] if section not in _SECTIONS and not table else [])
        else:
            mistakes.append(f"{path}: {section}: {_unknown(section)}")
    return settings


def _from_environment(environ: Mapping[str, str], mistakes: list[str]) -> list[_Setting]:
    settings = []
    for name in sorted(environ):
        match = re.fullmatch(r"FABSTIRD_([A-Z0-9]+)__([A-Z0-9_]+)", name)
        if match is None:
            continue
        section, key = match[1].lower(), match[2].lower()
        if _known(section, key):
            settings.append(_Setting(f"environment variable {name}", section, key, _toml_value(environ[name])))
        else:
            mistakes.append(f"environment variable {name}: {section}.{key}: {_unknown(section)}")
    return settings


def _from_options(overrides: Iterable[str], mistakes: list[str]) -> list[_Setting]:
    settings = []
    for text in overrides:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            mistakes.append(f"--set {text}: must be section.key=value, such as --set node.auto_start=false")
        elif _known(section, key):
            settings.append(_Setting("--set", section, key, _toml_value(value)))
        else:
            mistakes.append(f"--set: {section}.{key}: {_unknown(section)}")
    return settings


def _known(section: str, key: str) -> bool:
    return key in _CHECKS.get(section, ())


def _unknown(section: str) -> str:
    if section in _CHECKS:
        return f"unknown key; [{section}] knows {', '.join(_CHECKS[section])}"
    return f"unknown section; known are {', '.join(f'[{name}]' for name in _CHECKS)}"


def _toml_value(text: str) -> Any:
    """Read as TOML where it parses, else as a bare string (CONTRACT, section 1)."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text
