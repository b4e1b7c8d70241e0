"""The findings of ``fabstir doctor``, and the context that its checks share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fabstir_client._core.discovery import Target

State = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str  # what was checked, in one word
    state: State
    text: str
    cure: str | None = None


@dataclass(slots=True)
class Context:
    """What the checks have found out, for later checks."""

    target: Target
    config_file: str | None = None
    status: dict[str, Any] | None = None  # None if no daemon answers
    api: dict[str, Any] = field(default_factory=dict)  # api.json
    addresses: dict[str, Any] = field(default_factory=dict)  # the result of `addresses`
    config: dict[str, Any] = field(default_factory=dict)  # the daemon's, or that which a daemon here would have

    @property
    def data_dir(self) -> str:
        return self.target.data_directory()
