"""Settings that are allowed but hardly meant. `check-config` and the start warn of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from fabstird.config import Config, split_host_port

ENVELOPE = 1024  # bytes of a call around the base64 of its message
CLIENTS_PATIENCE = 45_000  # ms of silence after which this project's clients take a connection for dead
DHT_MESSAGE = 256 * 1024  # bytes of the longest DHT message that is read
LARGEST_EVENT = 8192  # bytes
VALUES_OF_A_CALL = 5  # the call itself, its members, and one parameter


def doubts(config: Config) -> Iterator[str]:
    """The warnings, one line each, which names the key."""
    yield from _addresses(config)
    yield from _limits(config)
    if (open_at := open_to_the_network(config.api.http)) is not None:
        yield (
            f"api.http: {open_at} is open to the network, and what goes over it can be read there; "
            "keep it on 127.0.0.1, and reach it by ssh or through a proxy with TLS"
        )


def _limits(config: Config) -> Iterator[str]:
    """Limits that do not fit together: one never has an effect, or is reached with an unexpected error. Defaults are
    left out, since nobody chose them."""
    api, connections, node, streams = config.api, config.connections, config.node, config.streams
    default = Config()
    message, limit = streams.max_message_bytes, api.max_request_bytes
    is_chosen = message != default.streams.max_message_bytes or limit != default.api.max_request_bytes
    if is_chosen and limit < (needed := needed_request_bytes(message)):
        yield (
            f"streams.max_message_bytes: a message of {message} bytes is a call of {needed} bytes in base64; "
            f"api.max_request_bytes allows {limit}"
        )
    if api.max_answer_bytes < (needed := needed_request_bytes(message)):
        yield (
            f"streams.max_message_bytes: an answer of {message} bytes has {needed} bytes in base64; "
            f"api.max_answer_bytes allows {api.max_answer_bytes}"
        )
    if api.max_answer_bytes > api.max_send_queue_bytes:
        yield (
            f"api.max_answer_bytes: two answers of {api.max_answer_bytes} bytes would close their connection; "
            f"api.max_send_queue_bytes allows {api.max_send_queue_bytes} to wait"
        )
    if api.max_request_values < VALUES_OF_A_CALL * api.max_batch:
        yield (
            f"api.max_batch: a batch of {api.max_batch} calls has some {VALUES_OF_A_CALL * api.max_batch} values; "
            f"api.max_request_values allows {api.max_request_values}"
        )
    if connections.max_per_ip != default.connections.max_per_ip and connections.max_per_ip > connections.max:
        yield f"connections.max_per_ip: {connections.max_per_ip} are more than connections.max ({connections.max})"
    if config.relay.serve and config.relay.max_reservations > connections.max:
        yield (
            f"relay.max_reservations: each of {config.relay.max_reservations} needs a connection; "
            f"connections.max allows {connections.max}"
        )
    of_peer, most = streams.max_open_per_peer, streams.max_open
    if of_peer != default.streams.max_open_per_peer and of_peer > most:
        yield f"streams.max_open_per_peer: {of_peer} are more than streams.max_open ({most})"
    if node.dial_timeout > node.request_timeout:
        yield (
            f"node.dial_timeout: a call of connect ends after node.request_timeout ({node.request_timeout}) already, "
            f"before a dial of {node.dial_timeout} ms does"
        )
    if config.events.heartbeat >= CLIENTS_PATIENCE:
        yield (
            f"events.heartbeat: clients take {CLIENTS_PATIENCE} ms without a word for a dead connection, and would "
            "connect again and again"
        )
    if config.events.max_bytes < LARGEST_EVENT:
        yield f"events.max_bytes: one event may have {LARGEST_EVENT} bytes, and would not be kept"
    if config.dht.max_value_bytes + ENVELOPE > DHT_MESSAGE:
        yield f"dht.max_value_bytes: no message of the DHT may have more than {DHT_MESSAGE} bytes"


def needed_request_bytes(message: int) -> int:
    """The size in bytes of a call that carries a message of ``message`` bytes."""
    return 4 * -(-message // 3) + ENVELOPE


def open_to_the_network(http: str) -> str | None:
    """The address in ``[api] http`` if programs of other machines can connect to it; otherwise None."""
    parts = split_host_port(http)
    if parts is None or parts[0].lower() == "localhost":
        return None
    try:
        if ipaddress.ip_address(parts[0]).is_loopback:
            return None
    except ValueError:
        pass  # a name, which may stand for any address
    return http


def _addresses(config: Config) -> Iterator[str]:
    try:
        from fabstird.p2p.wire.addresses import AddressError, parse
    except ImportError:
        return  # the daemon's libraries are not installed here
    kinds = (
        ("node.bootstrap_nodes", config.node.bootstrap_nodes),
        ("node.listen_addresses", config.node.listen_addresses),
        ("relay.nodes", config.relay.nodes),
    )
    for key, addresses in kinds:
        for text in addresses:
            try:
                parse(text)
            except AddressError as error:
                yield f"{key}: {error}"
