"""Where a tunnel leads or listens, as users write it, and whether that is allowed: on this machine, unless the
configuration allows more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fabstir_client.api.errors import Forbidden, InvalidParams
from fabstird.config import split_host_port
from fabstird.config.tunnels import plain_ip, rule

LOCALHOST = "localhost"
MAX_PATH = 107  # bytes of a Unix socket's path


@dataclass(frozen=True, slots=True)
class Target:
    """The ``path`` of a Unix socket, or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(param: str, text: str, *, any_port: bool = False) -> Target:
    """Parse a target. ``any_port`` allows port 0. Raises `InvalidParams`, which names ``param``."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_PATH:
            words = f"{param}: must be unix: and an absolute path of {MAX_PATH} bytes at most"
            raise InvalidParams(f'{words}, not "{text[:200]}"', param=param)
        return Target(path=Path(path))
    parts = split_host_port(text)
    if parts is None or not (parts[1] or any_port):
        raise InvalidParams(f'{param}: must be host:port or unix:/path, not "{text[:200]}"', param=param)
    return Target(parts[0], parts[1])


def check_allowed(param: str, target: Target, allow: tuple[str, ...], method: str) -> None:
    """Check that the target is allowed. Raises `Forbidden`."""
    if target.path is not None or is_loopback(target.host):
        return
    if not any(rule(one).allows(target.host, target.port) for one in allow):
        raise Forbidden(
            f'{param}: {target} is not on this machine, and not in [tunnels] allow; add "{target}" to it',
            method=method,
            needed="admin",
            granted="admin",
            configKey="tunnels.allow",
        )


def is_loopback(host: str) -> bool:
    address = plain_ip(host)
    return address.is_loopback if address is not None else host.lower() == LOCALHOST
