"""The unit for one user, under a real `systemd --user`: started, limited, restarted, refused where another runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.service.machine import Machine, until
from tests.service.unit import CONFIG, Service

USER, HOME = "member", "/home/member"
CONFIGURATION, STATE = f"{HOME}/.config/fabstird/config.toml", f"{HOME}/.local/state/fabstird"
DROP_INS = "/etc/systemd/user/fabstird.service.d"
UNIT = "/usr/local/lib/systemd/user/fabstird.service"
CANNOT_BIND = 4


class UserUnit:
    """What a user's own manager says and does. ``uid`` is the user's."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.uid = machine.run("id", "-u", USER).stdout.strip()
        self.runtime = f"/run/user/{self.uid}"

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the user's login session."""
        return self.machine.run("env", f"XDG_RUNTIME_DIR={self.runtime}", *command, user=USER, check=check)

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--user", *words, check=check)

    def show(self, name: str) -> str:
        return self.systemctl("show", "--property", name, "--value", "fabstird").stdout.strip()

    def status(self) -> dict[str, object]:
        """As soon as the node is started."""
        self.run("fabstir", "--data-dir", STATE, "wait", "started", "--timeout", "60")
        status: dict[str, object] = json.loads(self.run("fabstir", "--data-dir", STATE, "status", "--json").stdout)
        return status


@pytest.fixture
def user_unit(service: Service) -> Iterator[UserUnit]:
    """A login session of the user, as pam_systemd would make it, with a manager of the user's own."""
    machine = service.machine
    unit = UserUnit(machine)
    # The machine has no logind: a unit gives the manager what user@.service would, a cgroup that it may divide.
    machine.shell(f"install -d -m 0755 /run/user; install -d -m 0700 -o {USER} -g {USER} {unit.runtime}")
    machine.run(
        *("systemd-run", "--quiet", "--unit=session", f"--uid={USER}", "--property=Delegate=yes"),
        *(f"--setenv=XDG_RUNTIME_DIR={unit.runtime}", f"--setenv=HOME={HOME}", "/lib/systemd/systemd", "--user"),
    )
    until(lambda: unit.systemctl("is-active", "basic.target", check=False).stdout == "active\n")
    machine.shell(f"install -d -o {USER} -g {USER} {HOME}/.config {HOME}/.config/fabstird {HOME}/.local")
    machine.write(CONFIGURATION, CONFIG)
    yield unit
    unit.systemctl("stop", "fabstird", check=False)
    machine.shell(f"systemctl stop session; rm -rf {unit.runtime} {DROP_INS} {HOME}/.config {HOME}/.local")


def test_a_user_runs_one_for_himself(user_unit: UserUnit) -> None:
    assert user_unit.run("systemd-analyze", "--user", "verify", UNIT).stderr == ""
    user_unit.systemctl("enable", "--now", "fabstird")
    first = user_unit.status()
    assert first["state"] == "started"
    places = json.loads(user_unit.run("cat", f"{STATE}/api.json").stdout)
    assert str(places["pid"]) == user_unit.show("MainPID")
    assert user_unit.run("stat", "-c", "%a %U", f"{STATE}/identity.key").stdout == f"600 {USER}\n"
    assert (user_unit.show("MemoryMax"), user_unit.show("TasksMax")) == (str(1 << 30), "128")
    # Killed, it comes again by itself, as the same peer.
    user_unit.run("kill", "-KILL", user_unit.show("MainPID"))
    until(
        lambda: user_unit.show("MainPID") not in ("0", str(places["pid"])) and user_unit.show("SubState") == "running"
    )
    assert user_unit.status()["peerId"] == first["peerId"]
    user_unit.systemctl("stop", "fabstird")
    assert (user_unit.show("Result"), user_unit.show("ExecMainStatus")) == ("success", "0")


def test_where_the_system_s_has_the_port_it_says_so_once(user_unit: UserUnit, service: Service) -> None:
    service.start()
    user_unit.systemctl("start", "fabstird", check=False)
    until(lambda: user_unit.show("ActiveState") == "failed")
    assert user_unit.show("ExecMainStatus") == str(CANNOT_BIND)
    assert user_unit.show("NRestarts") == "0"
    user_unit.machine.write(f"{DROP_INS}/http.conf", "[Service]\nEnvironment=FABSTIRD_API__HTTP=127.0.0.1:0\n")
    user_unit.systemctl("daemon-reload")
    user_unit.systemctl("start", "fabstird")
    assert user_unit.status()["peerId"] != service.call("status", user="root")["peerId"]
