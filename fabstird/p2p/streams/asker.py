"""Who may use a stream or a request: it belongs to a user of the machine, or to a token."""

from __future__ import annotations

from dataclasses import dataclass


class NotOwner(Exception):
    """It belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The caller that refers to a stream or a request by id."""

    identity: object
    admin: bool = False

    def may(self, identity: object) -> bool:
        return self.admin or self.identity == identity
