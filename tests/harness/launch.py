"""How a test starts a daemon: its command, its environment, and the entries of its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

START_TIMEOUT = 60.0  # seconds from exec until it answers, on a machine that is busy with other things
STOP_TIMEOUT = 20.0  # from SIGTERM to exit 0, there; that it takes 5 is for tests that run alone
LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
OWN: Mapping[str, Any] = {"node.listen_addresses": ["/ip4/127.0.0.1/tcp/0"], "api.http": "127.0.0.1:0"}

Json = dict[str, Any]


def parsed(line: str) -> Json:
    """An entry of the log; a line that is none is of level "" and has the line as its `event`."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) and "level" in entry else {"level": "", "event": line}


def is_error(entry: Json) -> bool:
    return entry["level"] in ("error", "critical") or (not entry["level"] and "Traceback" in entry["event"])


def command(
    data_dir: Path, settings: Mapping[str, Any] | None = None, *, prefix: Sequence[str] = (), **node: Any
) -> list[str]:
    """The command that runs a daemon for a test. `node` is its [node] section, `settings` has other keys by their
    names (`{"connections.max": 20}`), `prefix` is a command that runs it in other circumstances (`nsenter …`)."""
    own = {"listen_addresses": LISTEN, "enable_mdns": False, "enable_dht": False, **node}
    # The network that this machine is in is not the test's: a router there is left alone
    mapping = "nsenter" in prefix
    keys = {
        "api.http": "",
        "log.format": "json",
        "nat.port_mapping": mapping,
        **{f"node.{key}": value for key, value in own.items()},
    }
    options = [*prefix, sys.executable, "-m", "fabstird", "run", "--data-dir", str(data_dir)]
    for key, value in (keys | dict(settings or {})).items():
        options += ["--set", f"{key}={json.dumps(value)}"]  # JSON of these types is TOML, too
    return options


def environment() -> dict[str, str]:
    """The environment of a daemon for a test: nothing in it configures one."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("FABSTIR", "XDG_"))}


def listening(process: subprocess.Popen[bytes], data_dir: Path) -> Json | None:
    """What this process has written to `api.json`, as any program would read it; None until its API listens."""
    try:
        api: Json = json.loads((data_dir / "api.json").read_bytes())
    except FileNotFoundError:
        return None
    return api if api["pid"] == process.pid else None
