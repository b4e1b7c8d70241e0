"""What the checks of ``fabstir doctor`` find, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fabstir_client._core.discovery import Target

State = Literal["ok", "warning", "fault", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    check: str  # what was looked at, one word
    state: State
    text: str
    cure: str | None = None


@dataclass(slots=True)
class Context:
    """What the checks share, as they find it out."""

    target: Target
    config_file: str | None = None
    status: dict[str, Any] | None = None  # None where no daemon answers
    api: dict[str, Any] = field(default_factory=dict)  # api.json
    addresses: dict[str, Any] = field(default_factory=dict)  # the daemon's
    config: dict[str, Any] = field(default_factory=dict)  # the daemon's, or what it would be

    @property
    def data_dir(self) -> str:
        return self.target.data_directory()
