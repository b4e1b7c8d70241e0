"""Tokens for HTTP and WebSocket: the one in ``api.token``, and those that administrators create.

Of created tokens ``tokens.json`` holds only a hash. A token has 256 random bits, so one round of SHA-256 is enough:
nothing can be guessed that a slower hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from fabstir_client.api.access import Access, TokenCreated, TokenRecord
from fabstir_client.api.errors import InvalidParams, InvalidState, LimitExceeded
from fabstird.datadir import write_whole
from fabstird.log.logger import get_logger
from fabstird.rpc.access import Grant
from fabstird.rpc.scope import Scope
from fabstird.stored import VERSION, Stored, decode, encode, load
from fabstird.threads import on_disk

log = get_logger("tokens")

FILE = "tokens.json"
PREFIX = "fabstir_"  # makes leaked tokens easy to find
API_TOKEN = "api.token"  # its name in the audit
T = TypeVar("T", bound=TokenRecord)
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class _Stored(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", forbid_unknown_fields=True):
    name: str
    hash: str  # SHA-256 of the token, in hexadecimal
    access: Access
    created: int
    methods: list[str] | None = None
    expires: int | None = None
    protocols: list[str] | None = None
    peers: list[str] | None = None


class _File(Stored, forbid_unknown_fields=True):
    tokens: list[_Stored]


@dataclass(slots=True)
class _Token:
    stored: _Stored
    digest: bytes
    grant: Grant
    last_used: int | None = None


class Tokens:
    """The tokens. ``api_token`` is the daemon's own, which grants everything. ``limit`` is how many others there may
    be; a reload changes it. ``clock`` returns seconds of the wall clock."""

    def __init__(self, path: Path, api_token: str, limit: int, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._own = _digest(api_token.encode())
        self._own_grant = Grant("admin", API_TOKEN, token=API_TOKEN)
        self.limit = limit
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._writing = trio.Lock()

    def __len__(self) -> int:
        return len(self._tokens)

    def load(self) -> None:
        """Read the file. A damaged one is set aside with a warning, and its tokens are no longer valid."""
        tokens = load(
            self.path,
            lambda content: {one.name: self._token(one) for one in decode(content, _File).tokens},
            log,
            unreadable="tokens cannot be read; only api.token is valid",
            damaged="tokens are damaged; only api.token is valid, so create the others again",
            clock=self._clock,
        )
        if tokens is not None:
            self._tokens = tokens

    def find(self, given: bytes) -> Grant | None:
        """What a token grants, which may have ended; None for an unknown token. It takes the same time for any token,
        however much of it is right."""
        digest = _digest(given)
        found = self._own_grant if hmac.compare_digest(digest, self._own) else None
        for token in self._tokens.values():
            if hmac.compare_digest(digest, token.digest):
                token.last_used = int(self._clock() * 1000)
                found = token.grant
        return found

    def all(self) -> list[TokenRecord]:
        return [_told(TokenRecord, token) for token in self._tokens.values()]

    async def create(
        self,
        name: str,
        access: Access,
        methods: list[str] | None,
        expires_in: int | None,
        protocols: list[str] | None = None,
        peers: list[str] | None = None,
    ) -> TokenCreated:
        """Create a token, and save it before it is returned. ``peers`` are normalised ids. Raises `InvalidParams`,
        `InvalidState`, `LimitExceeded`."""
        if not NAME.fullmatch(name):
            raise InvalidParams(
                "Invalid params: name: must be 1 to 64 letters, digits and . _ -", param="name"
            )  # fmt: skip
        async with self._writing:
            if name == API_TOKEN or name in self._tokens:
                raise InvalidState(f'there is a token "{name}" already; revoke it first, or choose another name')
            kept = self._with_room()
            text = PREFIX + secrets.token_urlsafe(32)
            now = int(self._clock() * 1000)
            expires = None if expires_in is None else now + expires_in
            stored = _Stored(name, _digest(text.encode()).hex(), access, now, methods, expires, protocols, peers)
            token = self._token(stored)
            try:
                await self._write({**kept, name: token})
            except OSError as error:
                raise InvalidState(f"no token was made: {FILE} cannot be written: {error.strerror}") from error
            self._tokens = {**kept, name: token}
            return _told(TokenCreated, token, token=text)

    async def revoke(self, name: str) -> bool:
        """Revoke a token at once, on open connections too; whether there was one. Raises `InvalidState` where that
        cannot be saved."""
        token = self._tokens.pop(name, None)
        if token is None:
            return False
        token.grant.withdraw("was revoked")
        async with self._writing:
            try:
                await self._write(self._tokens)
            except OSError as error:
                raise InvalidState(
                    f"revoked, but it will be good again after a restart: {FILE} cannot be written: {error.strerror}",
                    saved=False,
                ) from error
        return True

    def _with_room(self) -> dict[str, _Token]:
        """The tokens that are kept when another is added: expired ones make room."""
        limit, kept = self.limit, dict(self._tokens)
        for name in [name for name, token in kept.items() if token.grant.ended() is not None]:
            if len(kept) >= limit:
                del kept[name]
        if len(kept) >= limit:
            raise LimitExceeded(
                f"there are {len(kept)} tokens; {limit} are allowed: revoke one, or raise [api] max_tokens",
                limit=limit,
                current=len(kept),
                configKey="api.max_tokens",
            )
        return kept

    async def _write(self, tokens: dict[str, _Token]) -> None:
        content = encode(_File(VERSION, [token.stored for token in tokens.values()]))
        await on_disk(write_whole, self.path, content)

    def _token(self, stored: _Stored) -> _Token:
        """A token from the file. Raises ValueError where its hash is malformed."""
        digest = bytes.fromhex(stored.hash)
        if len(digest) != hashlib.sha256().digest_size:
            raise ValueError(f'the token "{stored.name}" has no valid hash')
        grant = Grant(
            stored.access,
            f'the token "{stored.name}"',
            cure="fabstir token create NAME --access {needed} creates one that does",
            token=stored.name,
            methods=None if stored.methods is None else frozenset(stored.methods),
            scope=Scope(
                None if stored.protocols is None else tuple(stored.protocols),
                None if stored.peers is None else frozenset(stored.peers),
            ),
            expires=stored.expires,
            clock=self._clock,
        )
        return _Token(stored, digest, grant)


def _told(kind: type[T], one: _Token, /, **more: str) -> T:
    stored = one.stored
    return kind(
        name=stored.name,
        access=stored.access,
        methods=stored.methods,
        protocols=stored.protocols,
        peers=stored.peers,
        created=stored.created,
        expires=stored.expires,
        expired=one.grant.ended() is not None,
        last_used=one.last_used,
        **more,
    )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
