"""Methods for administrators: tokens and the audit."""

from __future__ import annotations

from collections.abc import Mapping

from fabstir_client.api.access import (
    Access,
    AuditParams,
    AuditResult,
    TokenCreated,
    TokenCreateParams,
    TokenNameParams,
    TokenRecord,
    TokenRevoked,
)
from fabstir_client.api.errors import Forbidden, InvalidParams, InvalidState
from fabstir_client.api.types import NoParams
from fabstird.config import LARGEST
from fabstird.p2p.streams.protocol_names import checked_protocol
from fabstird.rpc.access import RANK, Grant
from fabstird.rpc.audit import KEPT
from fabstird.rpc.calls import cut
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.scope import MAX_ENTRIES, peers_of

DEFAULT_ENTRIES = 100


async def token_create(call: Call, params: TokenCreateParams) -> TokenCreated:
    methods = None if params.methods is None else sorted(set(params.methods))
    _check_methods(methods, params.access, call.services.access)
    protocols = None if params.protocols is None else sorted(set(params.protocols))
    _check_patterns(protocols)
    peers = None if params.peers is None else _peers(params.peers)
    _check_wider(call.caller.grant, params.access, methods)
    _check_scope(call.caller.grant, params.access, protocols, peers)
    if params.expires_in is not None and not 0 < params.expires_in <= LARGEST // 1000:
        words = f"must be a positive number of milliseconds, {LARGEST // 1000} at most, not {params.expires_in}"
        raise InvalidParams(f"Invalid params: expiresIn: {words}", param="expiresIn")
    return await call.services.tokens.create(params.name, params.access, methods, params.expires_in, protocols, peers)


def _check_methods(methods: list[str] | None, access: Access, known: Mapping[str, Access]) -> None:
    """Refuse methods that the token could never call."""
    if methods is None:
        return
    if not methods:
        raise InvalidParams("Invalid params: methods: must name at least one; leave it out for all", param="methods")
    for name in methods:
        if name not in known:
            raise InvalidParams(f'Invalid params: methods: there is no method "{name}"', param="methods")
        if RANK[known[name]] > RANK[access]:
            raise InvalidParams(
                f'Invalid params: methods: {name} needs {known[name]} access, not "{access}"', param="methods"
            )


def _check_patterns(patterns: list[str] | None) -> None:
    if patterns is None:
        return
    _check_number("protocols", patterns)
    for pattern in patterns:
        try:
            # A protocol name may itself contain *, so the pattern is checked as if it were a name.
            checked_protocol(pattern if pattern.startswith("/") else pattern.replace("*", "/", 1))
        except InvalidParams as error:
            words = error.message.removeprefix("protocol: ")
            raise InvalidParams(f"Invalid params: protocols: {words}", param="protocols") from error


def _peers(texts: list[str]) -> list[str]:
    """Peer ids in canonical form, without duplicates."""
    _check_number("peers", texts)
    peers: dict[str, None] = {}
    for text in texts:
        [peer_id] = peers_of(text) if "/" not in text else [None]
        if peer_id is None:
            raise InvalidParams(f'Invalid params: peers: "{cut(text)}" is not a peer id', param="peers")
        peers[peer_id] = None
    return sorted(peers)


def _check_number(param: str, entries: list[str]) -> None:
    if not entries:
        raise InvalidParams(f"Invalid params: {param}: must name at least one; leave it out for all", param=param)
    if len(entries) > MAX_ENTRIES:
        raise InvalidParams(f"Invalid params: {param}: at most {MAX_ENTRIES}, not {len(entries)}", param=param)


def _check_scope(grant: Grant, access: Access, protocols: list[str] | None, peers: list[str] | None) -> None:
    """Refuse protocols and peers outside the issuer's own scope."""
    scope = grant.scope
    if not scope.covers(protocols, peers):
        raise Forbidden(
            f"{grant.origin} can only create tokens within its own scope: {scope.words()}",
            method="token.create",
            needed=access,
            granted=grant.access,
            protocols=None if scope.protocols is None else list(scope.protocols),
            peers=None if scope.peers is None else sorted(scope.peers),
        )


def _check_wider(grant: Grant, access: Access, methods: list[str] | None) -> None:
    """Refuse more than the issuer's own access: a token limited to some methods cannot create tokens for others."""
    if grant.methods is not None and (methods is None or not grant.methods.issuperset(methods)):
        allowed = sorted(grant.methods)
        raise Forbidden(
            f"{grant.origin} can only create tokens for its own methods: {', '.join(allowed)}",
            method="token.create",
            needed=access,
            granted=grant.access,
            methods=allowed,
        )


def token_list(call: Call, _: NoParams) -> list[TokenRecord]:
    return call.services.tokens.all()


async def token_revoke(call: Call, params: TokenNameParams) -> TokenRevoked:
    return TokenRevoked(params.name, await call.services.tokens.revoke(params.name))


def audit(call: Call, params: AuditParams) -> AuditResult:
    limit = DEFAULT_ENTRIES if params.limit is None else params.limit
    if not 1 <= limit <= KEPT:
        raise InvalidParams(f"Invalid params: limit: must be 1 to {KEPT}, not {limit}", param="limit")
    kept = call.services.audit
    if params.after is not None and not 0 <= params.after <= kept.head:
        raise InvalidParams(
            f"Invalid params: after: must be 0 to {kept.head}, the newest entry, not {params.after}", param="after"
        )
    entries, missed = kept.read(params.after, limit)
    return AuditResult(kept.head, entries, missed)


METHODS = [
    Method("token.create", TokenCreateParams, TokenCreated, "Create a token", token_create, True, "admin",
           errors=(InvalidState,)),
    Method("token.list", NoParams, list[TokenRecord], "All tokens", token_list, access="admin"),
    Method("token.revoke", TokenNameParams, TokenRevoked, "Revoke a token, at once", token_revoke, True, "admin",
           errors=(InvalidState,), idle=lambda result: not result.revoked),
    Method("audit", AuditParams, AuditResult, "The latest calls that changed something", audit, access="admin"),
]  # fmt: skip
