"""The configuration: its keys and defaults, its rules, and mistakes that say what would be right."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.config import Config, ConfigError, NodeConfig, load, override_node, split_host_port
from tests.unit.configuring import mistakes, of_file, written

PEER = "/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

API_SIZES = (
    *("max_request_values", "max_answer_bytes", "max_calls", "max_subscriptions", "max_ipc_connections"),
    *("max_http_connections", "max_send_queue_bytes"),
)

# every key with its documented default
DOCUMENTED = """
[node]
auto_start = true                               # start the libp2p node together with the daemon
listen_addresses = ["/ip4/0.0.0.0/tcp/0"]
announce_addresses = []
announce_append = []
bootstrap_nodes = []
enable_dht = true
enable_mdns = true
dial_timeout = 30000                            # ms, applied to every dial
request_timeout = 60000                         # ms
max_retries = 3                                 # re-dials after the first failed dial of a bootstrap node
retry_delay = 1000                              # ms before the first re-dial; doubles each time
keepalive_interval = 300000                     # ms until a bootstrap node whose cycle failed is tried afresh, 0 never

[connections]
low_water = 64
high_water = 192
max = 256
max_per_ip = 32
grace_period = 20000
handshake_timeout = 10000

[api]
ipc = "auto"                                    # a path, "auto", or "" for none
ipc_mode = "0660"
http = "127.0.0.1:4780"                         # or "unix:/path", or "" for none; port 0 picks one
allowed_hosts = ["localhost", "127.0.0.1", "::1"]
allowed_origins = []
max_request_bytes = 1048576
max_batch = 100

[events]
history = 8192                                  # entries kept for replay
heartbeat = 15000

[log]
level = "info"
format = "auto"                                 # "console" on a terminal, "json" otherwise
"""

pytestmark = pytest.mark.usefixtures("no_system_file")


# --------------------------------------------------------------------------------------------------------------------
# Keys and defaults


def test_the_defaults_are_the_contracts() -> None:
    shown = load(None, {}).to_dict()
    contract = tomllib.loads(DOCUMENTED)
    # Keys beyond the contract are in config.example.toml, which is compared whole
    assert {section: {key: shown[section][key] for key in table} for section, table in contract.items()} == contract
    assert load(None, {}) == Config()


def test_the_contracts_own_text_is_a_configuration(tmp_path: Path) -> None:
    assert of_file(tmp_path, DOCUMENTED) == Config()


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    shown = of_file(
        tmp_path, f'[node]\nbootstrap_nodes = ["/ip4/1.2.3.4/tcp/1{PEER}"]\n[log]\nlevel = "debug"'
    ).to_dict()
    settings = [
        f"{section}.{key}={json.dumps(value)}" for section, keys in shown.items() for key, value in keys.items()
    ]
    assert load(None, {}, settings).to_dict() == shown


def test_a_file_sets_only_what_it_names(tmp_path: Path) -> None:
    found = of_file(tmp_path, "[node]\nmax_retries = 0\nretry_delay = 0\nkeepalive_interval = 0\n")
    assert found.node == NodeConfig(max_retries=0, retry_delay=0, keepalive_interval=0)
    assert found.connections == Config().connections
    assert of_file(tmp_path, "") == Config()
    assert of_file(tmp_path, "[node]\n[log]\n") == Config()


# --------------------------------------------------------------------------------------------------------------------
# Rules: what is right, and what is wrong with words for it

RIGHT = [
    ("node.listen_addresses", ["/ip4/1.2.3.4/tcp/0", "/ip6/::/tcp/4001/ws", "/dns4/localhost/tcp/1"]),
    ("node.listen_addresses", []),
    ("node.bootstrap_nodes", []),
    ("node.bootstrap_nodes", [f"/{kind}/example.org/tcp/4001{PEER}" for kind in ("dns", "dns4", "dns6")]),
    ("node.bootstrap_nodes", [f"/ip4/1.2.3.4/tcp/4001{PEER}", f"/ip6/::1/tcp/4001/ws{PEER}"]),
    ("node.bootstrap_nodes", ["/dnsaddr/bootstrap.example.org"]),
    ("node.bootstrap_nodes", ["/ip4/1.2.3.4/tcp/4001/p2p/cannot-be-decoded"]),  # goes through its cycle instead
    ("node.bootstrap_nodes", [f"/ip4/1.2.3.4/udp/4001/quic-v1{PEER}"]),
    ("node.dial_timeout", 1),
    ("node.max_retries", 0),
    ("node.retry_delay", 0),
    ("node.keepalive_interval", 0),
    ("connections.low_water", 0),
    ("connections.grace_period", 0),
    ("api.ipc", ""),
    ("api.ipc", "/run/fabstird.sock"),
    ("api.ipc_mode", "600"),
    ("api.http", ""),
    ("api.http", "unix:/run/http.sock"),
    ("api.http", "[::1]:0"),
    ("api.http", "localhost:65535"),
    ("api.allowed_origins", ["https://app.example.org"]),
    ("log.level", "error"),
    ("log.format", "console"),
]

WHOLE = "must be a positive integer"
MILLISECONDS = "must be a positive integer of milliseconds"
DELAY = "must be an integer of milliseconds, 0 or more"
IP4 = "/ip4/1.2.3.4/tcp/1"
BEGINS = "must be a multiaddr that begins with one of /ip4/ /ip6/ /dns/ /dns4/ /dns6/ /dnsaddr/"
WRONG = [
    ("node.auto_start", 1, "must be true or false, not 1"),
    ("node.enable_dht", "yes", 'must be true or false, not "yes"'),
    ("node.enable_mdns", [], "must be true or false, not []"),
    ("node.listen_addresses", "/ip4/0.0.0.0/tcp/0", 'must be an array of multiaddrs, not "/ip4/0.0.0.0/tcp/0"'),
    ("node.listen_addresses", ["0.0.0.0:4001"], f'invalid listen address "0.0.0.0:4001": {BEGINS}'),
    ("node.listen_addresses", [""], f'invalid listen address "": {BEGINS}'),
    ("node.security", ["tls", "plaintext"], "must be an array with one or more of noise, tls, not"),
    ("nat.hole_punching", 1, "must be true or false, not 1"),
    ("nat.autonat_service", 0, "must be true or false, not 0"),
    ("nat.port_mapping", "no", 'must be true or false, not "no"'),
    ("relay.serve", "yes", 'must be true or false, not "yes"'),
    ("relay.max_reservations", 0, "must be a positive integer, not 0"),
    ("relay.max_circuits", 0, "must be a positive integer, not 0"),
    ("relay.circuit_duration", -1, "must be an integer of milliseconds, 0 or more, not -1"),
    ("relay.circuit_bytes", -1, "must be an integer, 0 or more, not -1"),
    ("tls.certificate", "server.pem", 'must be an absolute path, or "" for none, not "server.pem"'),
    ("tls.key", 7, 'must be an absolute path, or "" for none, not 7'),
    ("proxy.trusted", ["10.0.0.0/33"], '"10.0.0.0/33": is no IP address and no network such as 10.0.0.0/8'),
    ("node.security", [], "must be an array with one or more of noise, tls, not"),
    ("node.announce_append", ["/unix/x"], f'invalid announce address "/unix/x": {BEGINS}'),
    ("node.announce_addresses", ["/unix/x"], f'invalid announce address "/unix/x": {BEGINS}'),
    ("node.bootstrap_nodes", [7], f'invalid bootstrap node "7": {BEGINS}'),
    ("node.bootstrap_nodes", [f" {IP4}{PEER}"], f'invalid bootstrap node " {IP4}{PEER}": {BEGINS}'),
    ("node.bootstrap_nodes", [IP4], f'invalid bootstrap node "{IP4}": must name the peer: {IP4}/p2p/<peer id>'),
    ("node.dial_timeout", 0, f"{MILLISECONDS}, not 0"),
    ("node.dial_timeout", -1, f"{MILLISECONDS}, not -1"),
    ("node.dial_timeout", 1.5, f"{MILLISECONDS}, not 1.5"),
    ("node.dial_timeout", True, f"{MILLISECONDS}, not true"),
    ("node.request_timeout", "60s", f'{MILLISECONDS}, not "60s"'),
    ("node.max_retries", -1, "must be an integer, 0 or more, not -1"),
    ("node.retry_delay", -1, f"{DELAY}, not -1"),
    ("node.keepalive_interval", -1, f"{DELAY}, not -1"),
    ("connections.low_water", -1, "must be an integer, 0 or more, not -1"),
    ("connections.high_water", 0, f"{WHOLE}, not 0"),
    ("connections.max", 0, f"{WHOLE}, not 0"),
    ("connections.max_per_ip", 0, f"{WHOLE}, not 0"),
    ("connections.max_new_per_ip", -1, "must be an integer, 0 or more, not -1"),
    ("connections.grace_period", -1, f"{DELAY}, not -1"),
    ("connections.handshake_timeout", 0, f"{MILLISECONDS}, not 0"),
    ("connections.ping_interval", 0, f"{MILLISECONDS}, not 0"),
    ("connections.ping_timeout", 0, f"{MILLISECONDS}, not 0"),
    ("connections.idle_refresh", -1, f"{DELAY}, not -1"),
    ("relay.nodes", ["/unix/x"], f'invalid relay "/unix/x": {BEGINS}'),
    ("relay.nodes", [IP4], f'invalid relay "{IP4}": must name the peer: {IP4}/p2p/<peer id>'),
    ("relay.nodes", ["/dnsaddr/a.b"], 'invalid relay "/dnsaddr/a.b": must name the peer: …/p2p/<peer id>'),
    ("relay.nodes", [f"/ip4/1.2.3.{n}/tcp/1{PEER}" for n in range(9)], "must be 8 relays at most, not 9"),
    ("api.ipc", "relative.sock", 'must be an absolute path, "auto", or "" for none, not "relative.sock"'),
    ("api.ipc_mode", "0999", 'must be an octal file mode such as "0660", not "0999"'),
    ("api.ipc_mode", 0o660, 'must be an octal file mode such as "0660", not 432'),
    ("api.http", "127.0.0.1", 'must be "host:port", "[ipv6]:port", "unix:/path", or "" for none, not "127.0.0.1"'),
    ("api.http", "127.0.0.1:65536", '"host:port"'),
    ("api.http", "::1:80", '"[ipv6]:port"'),
    ("api.http", "unix:relative", '"unix:/path"'),
    ("api.http", 4780, "not 4780"),
    ("api.allowed_hosts", "localhost", 'must be an array of strings, not "localhost"'),
    ("api.allowed_hosts", [1], "must be an array of strings, not [1]"),
    ("api.allowed_origins", {}, "must be an array of strings, not {}"),
    ("api.max_request_bytes", 0, f"{WHOLE}, not 0"),
    ("api.max_batch", 0, f"{WHOLE}, not 0"),
    *[(f"api.{key}", 0, f"{WHOLE}, not 0") for key in API_SIZES],
    *[(f"api.{key}_timeout", 0, f"{MILLISECONDS}, not 0") for key in ("send", "header", "body", "idle")],
    ("api.ping_interval", 0, f"{MILLISECONDS}, not 0"),
    ("api.max_tokens", 0, f"{WHOLE}, not 0"),
    ("api.bridge", "on", 'must be true or false, not "on"'),
    ("api.ui", "yes", "true or false"),
    ("api.ipc_group_access", "none", 'must be one of read, write, admin, not "none"'),
    ("events.history", 0, f"{WHOLE}, not 0"),
    ("events.max_bytes", 0, f"{WHOLE}, not 0"),
    ("events.heartbeat", 0, f"{MILLISECONDS}, not 0"),
    ("streams.max_message_bytes", 0, f"{WHOLE}, not 0"),
    ("streams.max_waiting", 0, f"{WHOLE}, not 0"),
    ("streams.max_open", 0, f"{WHOLE}, not 0"),
    ("streams.max_open_per_peer", 0, f"{WHOLE}, not 0"),
    ("streams.perf", 1, "must be true or false, not 1"),
    ("tunnels.allow", ["10.0.0.5"], '"10.0.0.5": must end in ":" and a port from 1 to 65535, or ":*"'),
    ("dht.mode", "on", 'must be one of auto, server, client, not "on"'),
    ("dht.max_value_bytes", 0, f"{WHOLE}, not 0"),
    ("dht.discover_ttl", -1, f"{DELAY}, not -1"),
    ("log.level", "verbose", 'must be one of debug, info, warning, error, not "verbose"'),
    ("log.level", ["info"], "must be one of debug, info, warning, error"),
    ("log.format", "xml", 'must be one of auto, console, json, not "xml"'),
]  # fmt: skip


def as_toml(key: str, value: Any) -> str:
    section, _, name = key.partition(".")
    text = "{}" if value == {} else json.dumps(value)
    return f"[{section}]\n{name} = {text}\n"


def test_every_key_has_a_wrong_value_below() -> None:
    keys = {f"{section}.{key}" for section, table in Config().to_dict().items() for key in table}
    assert keys == {key for key, _, _ in WRONG}


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_what_is_right_is_taken_as_it_is(tmp_path: Path, key: str, value: Any) -> None:
    section, _, name = key.partition(".")
    assert of_file(tmp_path, as_toml(key, value)).to_dict()[section][name] == value
    assert load(None, {}, [f"{key}={json.dumps(value)}"]).to_dict()[section][name] == value


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_what_is_wrong_names_source_key_and_cure(tmp_path: Path, key: str, value: Any, words: str) -> None:
    path = written(tmp_path, as_toml(key, value))
    with pytest.raises(ConfigError) as raised:
        load(path, {})
    (line,) = raised.value.mistakes
    assert line.startswith(f"{path}: {key}: ")
    assert words in line


@pytest.mark.parametrize("key", [key for key, _, words in WRONG if "integer" in words])
def test_a_number_is_one_that_every_json_reader_holds(key: str) -> None:
    """Beyond 2^53 - 1 a number does not survive other languages' parsers, and 10^400 not even our own arithmetic."""
    load(
        None, {}, [f"{key}={2**53 - 1}", "connections.max=9007199254740991", "connections.high_water=9007199254740991"]
    )
    for number in (2**53, 10**400):
        assert mistakes(f"{key}={number}")[0].startswith(f"--set: {key}: must be ")
    assert mistakes(f"{key}={'9' * 5000}")[0].startswith(f"--set: {key}: must be ")


def test_the_same_entry_twice_is_one() -> None:
    node = f"/ip4/1.2.3.4/tcp/1{PEER}"
    found = load(None, {}, [f'node.bootstrap_nodes=["{node}", "{node}/", "{node}"]'])
    assert found.node.bootstrap_nodes == (node, f"{node}/")
    assert load(
        None, {}, ['node.listen_addresses=["/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/tcp/1"]']
    ).node.listen_addresses == ("/ip4/0.0.0.0/tcp/1",)


def test_each_wrong_entry_of_a_list_is_told() -> None:
    found = mistakes(f'node.bootstrap_nodes=["nonsense", "/ip4/1.2.3.4/tcp/1{PEER}", "/ip4/1.2.3.4/tcp/1", 7]')
    assert [line.split(":")[2] for line in found] == [
        ' invalid bootstrap node "nonsense"',
        ' invalid bootstrap node "/ip4/1.2.3.4/tcp/1"',
        ' invalid bootstrap node "7"',
    ]


def test_watermarks_follow_a_lower_maximum() -> None:
    found = load(None, {}, ["connections.max=20"]).connections
    assert (found.low_water, found.high_water, found.max) == (20, 20, 20)
    found = load(None, {}, ["connections.high_water=50"]).connections
    assert (found.low_water, found.high_water, found.max) == (50, 50, 256)
    found = load(None, {}, ["connections.max=1000"]).connections
    assert (found.low_water, found.high_water, found.max) == (64, 192, 1000)


def test_watermarks_that_are_set_must_agree(tmp_path: Path) -> None:
    assert mistakes("connections.max=20", "connections.high_water=21") == [
        "--set: connections.high_water: must not exceed connections.max (20), but is 21"
    ]
    assert mistakes("connections.low_water=193", FABSTIRD_CONNECTIONS__HIGH_WATER="192") == [
        "--set: connections.low_water: must not exceed connections.high_water (192), but is 193"
    ]
    assert len(mistakes("connections.low_water=30", "connections.high_water=20", "connections.max=10")) == 2
    path = written(tmp_path, "[connections]\nhigh_water = 300\n")
    with pytest.raises(ConfigError, match=f"{path}: connections.high_water: must not exceed connections.max"):
        load(path, {})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=5
)


@given(st.sampled_from([key for key, _, _ in WRONG]), anything | st.text())
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    found: list[str] = []
    try:
        json.dumps(load(None, {}, [f"{key}={text}"]).to_dict())
    except ConfigError as error:
        found = error.mistakes or ["none"]
    for line in found:
        assert line.isprintable()
        assert line.startswith("--set: ")


# --------------------------------------------------------------------------------------------------------------------
# What start(config) may override


def test_start_overrides_keys_of_the_node_in_camel_case() -> None:
    found = override_node(
        NodeConfig(max_retries=7),
        {
            "bootstrapNodes": [f"/ip4/1.2.3.4/tcp/1{PEER}"],
            "listenAddresses": ["/ip4/127.0.0.1/tcp/0"],
            "enableDHT": False,
            "enableMDNS": False,
            "dialTimeout": 1,
            "requestTimeout": 2,
            "maxRetries": None,
            "retryDelay": 0,
        },
    )
    assert found == NodeConfig(
        bootstrap_nodes=(f"/ip4/1.2.3.4/tcp/1{PEER}",),
        listen_addresses=("/ip4/127.0.0.1/tcp/0",),
        enable_dht=False,
        enable_mdns=False,
        dial_timeout=1,
        request_timeout=2,
        max_retries=7,
        retry_delay=0,
    )


def test_mistakes_of_start_name_the_key_as_it_was_given() -> None:
    with pytest.raises(ConfigError) as raised:
        override_node(
            NodeConfig(), {"maxRetries": -1, "max_retries": 1, "autoStart": True, "bootstrapNodes": ["x", "y"]}
        )
    assert [line.partition(";")[0].partition(": must")[0] for line in raised.value.mistakes] == [
        "config.maxRetries",
        "config.max_retries: unknown key",
        "config.autoStart: unknown key",
        'config.bootstrapNodes: invalid bootstrap node "x"',
        'config.bootstrapNodes: invalid bootstrap node "y"',
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:4780", ("localhost", 4780)),
        ("[::1]:4780", ("::1", 4780)),
        ("::1:4780", None),
        ("[1.2.3.4]:1", None),
        ("127.0.0.1", None),
        ("127.0.0.1:", None),
        (":80", None),
        ("127.0.0.1:-1", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:٣", None),
    ],
)
def test_host_and_port(text: str, parts: tuple[str, int] | None) -> None:
    assert split_host_port(text) == parts
