"""Methods about access itself: tokens and the audit. For administrators."""

from __future__ import annotations

from collections.abc import Mapping

from fabstir_client.errors import Forbidden, InvalidParams, InvalidState
from fabstir_client.types import NoParams
from fabstir_client.types_access import (
    Access,
    AuditParams,
    AuditResult,
    TokenCreated,
    TokenCreateParams,
    TokenNameParams,
    TokenRecord,
    TokenRevoked,
)
from fabstird.config import LARGEST
from fabstird.rpc.access import RANK, Grant
from fabstird.rpc.audit import KEPT
from fabstird.rpc.dispatch import Call, Method

DEFAULT_ENTRIES = 100


async def token_create(call: Call, params: TokenCreateParams) -> TokenCreated:
    methods = None if params.methods is None else sorted(set(params.methods))
    _check_methods(methods, params.access, call.services.access)
    _check_wider(call.caller.grant, params.access, methods)
    if params.expires_in is not None and not 0 < params.expires_in <= LARGEST // 1000:
        words = f"must be a positive number of milliseconds, {LARGEST // 1000} at most, not {params.expires_in}"
        raise InvalidParams(f"Invalid params: expiresIn: {words}", param="expiresIn")
    return await call.services.tokens.create(params.name, params.access, methods, params.expires_in)


def _check_methods(methods: list[str] | None, access: Access, known: Mapping[str, Access]) -> None:
    """A token that could never be used for one of its methods is a mistake."""
    if methods is None:
        return
    if not methods:
        raise InvalidParams("Invalid params: methods: must name one at least; leave it out for all", param="methods")
    for name in methods:
        if name not in known:
            raise InvalidParams(f'Invalid params: methods: there is no method "{name}"', param="methods")
        if RANK[known[name]] > RANK[access]:
            raise InvalidParams(
                f'Invalid params: methods: {name} needs {known[name]} access, not "{access}"', param="methods"
            )


def _check_wider(grant: Grant, access: Access, methods: list[str] | None) -> None:
    """Nobody hands out more than they have: a token for some methods makes no token for others."""
    if grant.methods is not None and (methods is None or not grant.methods.issuperset(methods)):
        allowed = sorted(grant.methods)
        raise Forbidden(
            f"{grant.origin} can make tokens for its own methods only: {', '.join(allowed)}",
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
    Method("token.create", TokenCreateParams, TokenCreated, "Make a token", token_create, True, "admin",
           errors=(InvalidState,)),
    Method("token.list", NoParams, list[TokenRecord], "The tokens that there are", token_list, access="admin"),
    Method("token.revoke", TokenNameParams, TokenRevoked, "End a token, at once", token_revoke, True, "admin",
           errors=(InvalidState,)),
    Method("audit", AuditParams, AuditResult, "The last calls that changed something", audit, access="admin"),
]  # fmt: skip
