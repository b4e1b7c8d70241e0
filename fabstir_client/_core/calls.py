"""The daemon's methods as `Call` objects, one function each, shared by both clients.

All durations are integer milliseconds, as on the wire.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from fabstir_client._core.protocol import DEFAULT_BOUND, MARGIN, Call, result_decoder
from fabstir_client.api import access as types_access
from fabstir_client.api import debug as types_debug
from fabstir_client.api import dht as types_dht
from fabstir_client.api import fabstir as types_fabstir
from fabstir_client.api import streams as types_streams
from fabstir_client.api import types
from fabstir_client.api import ui as types_ui
from fabstir_client.api.errors import InvalidConfig

Config = types.NodeOverrides | Mapping[str, Any]

_status = result_decoder(types.Status)
_peers = result_decoder(list[types.Peer])
_addresses = result_decoder(types.Addresses)
_metrics = result_decoder(types.Metrics)
_connected = result_decoder(types.ConnectResult)
_disconnected = result_decoder(types.DisconnectResult)
_ping = result_decoder(types.PingResult)
_waited = result_decoder(types.WaitResult)
_subscribed = result_decoder(types.SubscribeResult)
_version = result_decoder(types.VersionResult)
_explanation = result_decoder(types.Explanation)
_kept = result_decoder(types.KeepResult)
_forgotten = result_decoder(types.ForgetResult)
_banned = result_decoder(types.BanResult)
_unbanned = result_decoder(types.UnbanResult)
_bans = result_decoder(list[types.BanRecord])
_tags = result_decoder(types.PeerTags)
_answer = result_decoder(types_streams.RequestResult)
_handled = result_decoder(types_streams.HandleResult)
_opened = result_decoder(types_streams.OpenedStream)
_reset = result_decoder(types_streams.ResetResult)
_streams = result_decoder(list[types_streams.StreamRecord])
_read = result_decoder(types_streams.ReadResult)
_responded = result_decoder(types_streams.RespondResult)
_task_tree = result_decoder(types_debug.TaskTree)
_dump = result_decoder(types_debug.Dump)
_log_levels = result_decoder(types_debug.LogLevels)
_token_created = result_decoder(types_access.TokenCreated)
_token_revoked = result_decoder(types_access.TokenRevoked)
_tokens = result_decoder(list[types_access.TokenRecord])
_audit = result_decoder(types_access.AuditResult)
_found_peer = result_decoder(types_dht.FoundPeer)
_found_providers = result_decoder(types_dht.FoundProviders)
_provided = result_decoder(types_dht.Provided)
_found_value = result_decoder(types_dht.FoundValue)
_stored_value = result_decoder(types_dht.StoredValue)
_forgotten_key = result_decoder(types_dht.Forgotten)
_dht_status = result_decoder(types_dht.DhtStatus)
_dht_routing = result_decoder(types_dht.DhtRouting)
_announced = result_decoder(types_fabstir.Announced)
_withdrawn = result_decoder(types_fabstir.Withdrawn)
_discovered = result_decoder(types_fabstir.Discovered)
_ui_code = result_decoder(types_ui.UiCode)
_dials = result_decoder(list[types_ui.DialRecord])
_log_tail = result_decoder(types_ui.LogTail)
_object = result_decoder(dict[str, Any])
_anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_raw = result_decoder(msgspec.Raw)


def bound(timeout: int | None) -> float:
    """Seconds to wait for a call with its own timeout, given in milliseconds."""
    return DEFAULT_BOUND if timeout is None else timeout / 1000 + MARGIN


def overrides(config: Config | None) -> types.NodeOverrides | None:
    """The parameter of ``start``, from a mapping with camelCase or snake_case keys.

    Raises `InvalidConfig`, naming the key.
    """
    if config is None or isinstance(config, types.NodeOverrides):
        return config
    if not isinstance(config, Mapping):
        raise InvalidConfig(f"the node's configuration must be a mapping, not {type(config).__name__}")
    fields = {f.name: f.encode_name for f in msgspec.structs.fields(types.NodeOverrides)}
    given: dict[str, Any] = {}
    for key, value in config.items():
        name = fields.get(key, key)
        if name not in fields.values():
            raise InvalidConfig(f"unknown key {key!r} in the node's configuration; known: {', '.join(fields.values())}")
        if name in given:
            raise InvalidConfig(f"{name} is given twice in the node's configuration, in two spellings")
        if value is not None:
            given[name] = value
    try:
        return msgspec.convert(given, types.NodeOverrides)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"wrong value in the node's configuration: {error}") from error


def start(config: Config | None) -> Call[types.Status]:
    given = overrides(config)
    return Call("start", {} if given is None else {"config": given}, _status)


def stop() -> Call[types.Status]:
    return Call("stop", types.NoParams(), _status)


def status() -> Call[types.Status]:
    return Call("status", types.NoParams(), _status)


def peers() -> Call[list[types.Peer]]:
    return Call("peers", types.NoParams(), _peers)


def addresses() -> Call[types.Addresses]:
    return Call("addresses", types.NoParams(), _addresses)


def metrics() -> Call[types.Metrics]:
    return Call("metrics", types.NoParams(), _metrics)


def connect(address: str, timeout: int | None) -> Call[types.ConnectResult]:
    return Call("connect", types.ConnectParams(address, timeout), _connected, bound(timeout))


def disconnect(peer_id: str) -> Call[types.DisconnectResult]:
    return Call("disconnect", types.DisconnectParams(peer_id), _disconnected)


def ping(peer_id: str, timeout: int | None) -> Call[types.PingResult]:
    return Call("ping", types.PingParams(peer_id, timeout), _ping, bound(timeout))


def wait(
    timeout: int, state: types.NodeState | None, peers: int | None, peer_id: str | None, protocol: str | None
) -> Call[types.WaitResult]:
    params = types.WaitParams(state=state, peers=peers, peer_id=peer_id, protocol=protocol, timeout=timeout)
    return Call("wait", params, _waited, bound(timeout))


def explain(target: str) -> Call[types.Explanation]:
    return Call("peer.explain", types.TargetParams(target), _explanation)


def keep(address: str, lease: Literal["connection"] | None = None) -> Call[types.KeepResult]:
    return Call("peer.keep", types.KeepParams(address, lease), _kept)


def forget(target: str) -> Call[types.ForgetResult]:
    return Call("peer.forget", types.TargetParams(target), _forgotten)


def ban(target: str, duration: int | None, reason: str | None) -> Call[types.BanResult]:
    return Call("peer.ban", types.BanParams(target, duration, reason), _banned)


def unban(target: str) -> Call[types.UnbanResult]:
    return Call("peer.unban", types.UnbanParams(target), _unbanned)


def bans() -> Call[list[types.BanRecord]]:
    return Call("peer.bans", types.NoParams(), _bans)


def tag(peer_id: str, tag: str, value: int) -> Call[types.PeerTags]:
    return Call("peer.tag", types.TagParams(peer_id, tag, value), _tags)


def untag(peer_id: str, tag: str) -> Call[types.PeerTags]:
    return Call("peer.untag", types.UntagParams(peer_id, tag), _tags)


def protect(peer_id: str) -> Call[types.PeerTags]:
    return Call("peer.protect", types.PeerParams(peer_id), _tags)


def unprotect(peer_id: str) -> Call[types.PeerTags]:
    return Call("peer.unprotect", types.PeerParams(peer_id), _tags)


def request(
    peer_id: str, protocol: str, data: bytes, framing: types_streams.Framing | None, timeout: int | None
) -> Call[types_streams.RequestResult]:
    params = types_streams.RequestParams(peer_id, protocol, base64.b64encode(data).decode(), framing, timeout)
    return Call("request", params, _answer, bound(timeout))


def open_stream(peer_id: str, protocol: str | Sequence[str], timeout: int | None) -> Call[types_streams.OpenedStream]:
    names = protocol if isinstance(protocol, str) else list(protocol)
    return Call("stream.open", types_streams.OpenParams(peer_id, names, timeout), _opened, bound(timeout))


def accept_stream(stream_id: str) -> Call[types_streams.OpenedStream]:
    return Call("stream.accept", types_streams.StreamIdParams(stream_id), _opened)


def reset_stream(stream_id: str) -> Call[types_streams.ResetResult]:
    return Call("stream.reset", types_streams.StreamIdParams(stream_id), _reset)


def streams() -> Call[list[types_streams.StreamRecord]]:
    return Call("stream.list", types.NoParams(), _streams)


def handle(params: types_streams.HandleParams) -> Call[types_streams.HandleResult]:
    return Call("protocol.handle", params, _handled)


def read_request(request_id: str) -> Call[types_streams.ReadResult]:
    return Call("protocol.read", types_streams.RequestIdParams(request_id), _read)


def respond(request_id: str, data: bytes) -> Call[types_streams.RespondResult]:
    params = types_streams.RespondParams(request_id, base64.b64encode(data).decode())
    return Call("protocol.respond", params, _responded)


def token_create(
    name: str,
    access: types_access.Access,
    methods: Sequence[str] | None,
    expires_in: int | None,
    protocols: Sequence[str] | None,
    peers: Sequence[str] | None,
) -> Call[types_access.TokenCreated]:
    named, patterns, ids = (None if names is None else list(names) for names in (methods, protocols, peers))
    params = types_access.TokenCreateParams(name, access, named, expires_in, patterns, ids)
    return Call("token.create", params, _token_created)


def token_list() -> Call[list[types_access.TokenRecord]]:
    return Call("token.list", types.NoParams(), _tokens)


def token_revoke(name: str) -> Call[types_access.TokenRevoked]:
    return Call("token.revoke", types_access.TokenNameParams(name), _token_revoked)


def audit(after: int | None, limit: int | None) -> Call[types_access.AuditResult]:
    return Call("audit", types_access.AuditParams(after, limit), _audit)


def dht_find_peer(peer_id: str, timeout: int | None) -> Call[types_dht.FoundPeer]:
    return Call("dht.find_peer", types_dht.FindPeerParams(peer_id, timeout), _found_peer, bound(timeout))


def dht_find_providers(
    key: str, encoding: types_dht.KeyEncoding | None, count: int | None, timeout: int | None, query_id: str | None
) -> Call[types_dht.FoundProviders]:
    params = types_dht.FindProvidersParams(key, encoding, count, timeout, query_id)
    return Call("dht.find_providers", params, _found_providers, bound(timeout))


def dht_provide(key: str, encoding: types_dht.KeyEncoding | None, timeout: int | None) -> Call[types_dht.Provided]:
    return Call("dht.provide", types_dht.KeyParams(key, encoding, timeout), _provided, bound(timeout))


def dht_get_value(
    key: str, encoding: types_dht.KeyEncoding | None, quorum: int | None, timeout: int | None, query_id: str | None
) -> Call[types_dht.FoundValue]:
    params = types_dht.GetValueParams(key, encoding, quorum, timeout, query_id)
    return Call("dht.get_value", params, _found_value, bound(timeout))


def dht_put_value(
    key: str, value: bytes, encoding: types_dht.KeyEncoding | None, timeout: int | None
) -> Call[types_dht.StoredValue]:
    params = types_dht.PutValueParams(key, base64.b64encode(value).decode(), encoding, timeout)
    return Call("dht.put_value", params, _stored_value, bound(timeout))


def dht_forget(key: str, encoding: types_dht.KeyEncoding | None) -> Call[types_dht.Forgotten]:
    return Call("dht.forget", types_dht.ForgetParams(key, encoding), _forgotten_key)


def dht_status() -> Call[types_dht.DhtStatus]:
    return Call("dht.status", types.NoParams(), _dht_status)


def dht_routing() -> Call[types_dht.DhtRouting]:
    return Call("dht.routing", types.NoParams(), _dht_routing)


def announce(
    capabilities: Sequence[str], metadata: Mapping[str, Any] | None, timeout: int | None
) -> Call[types_fabstir.Announced]:
    # The timeout applies to each record, and eight records are sent at a time.
    rounds = 1 + (2 * len(capabilities)) // 8
    plain = None if metadata is None else dict(metadata)
    params = types_fabstir.AnnounceParams(list(capabilities), plain, timeout)
    return Call("fabstir.announce", params, _announced, rounds * bound(timeout))


def withdraw(capabilities: Sequence[str]) -> Call[types_fabstir.Withdrawn]:
    return Call("fabstir.withdraw", types_fabstir.WithdrawParams(list(capabilities)), _withdrawn)


def discover(
    model: str, filters: types_fabstir.DiscoverFilters | None, force_refresh: bool, timeout: int | None
) -> Call[types_fabstir.Discovered]:
    params = types_fabstir.DiscoverParams(model, filters, force_refresh or None, timeout)
    return Call("fabstir.discover", params, _discovered, bound(timeout))


def subscribe(kinds: Sequence[str] | None, after: int | None, epoch: str | None) -> Call[types.SubscribeResult]:
    params = types.SubscribeParams(None if kinds is None else list(kinds), after, epoch)
    return Call("subscribe", params, _subscribed)


def config() -> Call[dict[str, Any]]:
    return Call("config", types.NoParams(), _object)


def version() -> Call[types.VersionResult]:
    return Call("version", types.NoParams(), _version)


def shutdown() -> Call[dict[str, Any]]:
    return Call("shutdown", types.NoParams(), _object)


def task_tree() -> Call[types_debug.TaskTree]:
    return Call("debug.tasks", types.NoParams(), _task_tree)


def dump() -> Call[types_debug.Dump]:
    return Call("debug.dump", types.NoParams(), _dump)


def log_level(logger: str | None, level: str | None) -> Call[types_debug.LogLevels]:
    return Call("log.level", types_debug.LogLevelParams(logger, level), _log_levels)


def log_tail(after: int | None, level: types_ui.LogLevel, limit: int | None) -> Call[types_ui.LogTail]:
    return Call("log.tail", types_ui.LogTailParams(after, level, limit), _log_tail)


def dials() -> Call[list[types_ui.DialRecord]]:
    return Call("dials", types.NoParams(), _dials)


def ui_code(access: types_access.Access) -> Call[types_ui.UiCode]:
    return Call("ui.code", types_ui.UiCodeParams(access), _ui_code)


def any_method(method: str, params: Mapping[str, Any] | Sequence[Any] | None, seconds: float | None) -> Call[Any]:
    """A call by name whose result stays plain values.

    It waits ``seconds``, or as long as ``params["timeout"]`` (milliseconds) implies.
    """
    return Call(method, _checked(params), _anything, _seconds(params, seconds))


def raw_method(
    method: str, params: Mapping[str, Any] | Sequence[Any] | None, seconds: float | None = None
) -> Call[msgspec.Raw]:
    """As `any_method`, but the result stays the bytes that the daemon sent."""
    return Call(method, _checked(params), _raw, _seconds(params, seconds))


def _checked(params: Mapping[str, Any] | Sequence[Any] | None) -> Mapping[str, Any] | Sequence[Any]:
    if params is None:
        return {}
    if isinstance(params, str | bytes) or not isinstance(params, Mapping | Sequence):
        raise InvalidConfig(f"parameters must be a mapping or a sequence, not {type(params).__name__}")
    return params


def _seconds(params: Mapping[str, Any] | Sequence[Any] | None, seconds: float | None) -> float:
    if seconds is not None:
        return seconds
    timeout = params.get("timeout") if isinstance(params, Mapping) else None
    return bound(timeout) if isinstance(timeout, int) and timeout >= 0 else DEFAULT_BOUND
