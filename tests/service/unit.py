"""fabstird's units in a machine, as a person at its command line handles them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.service.machine import Machine, until

# Peers on loopback only, and nobody looked for
CONFIG = """
[node]
listen_addresses = ["/ip4/127.0.0.1/tcp/0"]
enable_dht = false
enable_mdns = false
"""
STATE, SOCKET = "/var/lib/fabstird", "/run/fabstird/api.sock"
DROP_INS = "/etc/systemd/system/fabstird.service.d"


class Service:
    """The unit is ``fabstird``; its socket unit is started by the tests that want it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def reset(self) -> None:
        """As it is after an installation, with a configuration that stays on this machine."""
        self.machine.shell(
            "systemctl stop fabstird.socket fabstird peer@* 2>/dev/null || true;"
            f"systemctl reset-failed; ! mountpoint -q {STATE} || umount {STATE};"
            f"rm -rf {STATE} {DROP_INS} /etc/fabstird /etc/credstore /run/fabstird;"
            "systemd-tmpfiles --create fabstird.conf; systemctl daemon-reload;"
            "journalctl --rotate -q; journalctl --vacuum-time=1s -q"
        )
        self.configure(CONFIG)

    def configure(self, config: str) -> None:
        self.machine.write("/etc/fabstird/config.toml", config)

    def drop_in(self, text: str) -> None:
        """What `systemctl edit` would write."""
        self.machine.write(f"{DROP_INS}/test.conf", f"[Service]\n{text}\n")
        self.machine.run("systemctl", "daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.run("systemctl", *words, "fabstird", check=check)

    def start(self) -> None:
        self.systemctl("start")

    def fail_to_start(self) -> str:
        """Start what cannot start; what `systemctl status` then shows."""
        assert self.systemctl("start", check=False).returncode != 0
        until(lambda: self.show("ActiveState") == "failed")
        return self.status()

    def status(self) -> str:
        shown = self.systemctl("status", "--no-pager", "--full", check=False).stdout
        return "\n".join(line.rstrip() for line in shown.splitlines())

    def show(self, name: str) -> str:
        return self.systemctl("show", "--property", name, "--value").stdout.strip()

    @property
    def pid(self) -> int:
        """Of the daemon as the machine counts; 0 while it does not run."""
        return int(self.show("MainPID"))

    def journal(self) -> str:
        return self.machine.run("journalctl", "--unit=fabstird", "--output=cat", "--no-pager").stdout

    def call(self, method: str, params: dict[str, Any] | None = None, *, user: str = "member") -> Any:
        """A call of the API by a user, over the socket."""
        return json.loads(self.machine.run("fabstir", "call", method, json.dumps(params or {}), user=user).stdout)

    def kill(self, signal: str) -> None:
        self.machine.run("kill", f"-{signal}", str(self.pid))

    def until_restarted(self, pid: int) -> int:
        """The pid of the daemon that came after ``pid``, once it is ready."""
        until(lambda: self.pid not in (0, pid) and self.show("SubState") == "running")
        return self.pid
