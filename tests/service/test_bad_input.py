"""What can be wrong with a unit and around it: the exit status, and one line in `systemctl status` to act on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from fabstird.identity import load_or_make
from tests.service.machine import until
from tests.service.unit import CONFIG, SOCKET, STATE, Service

MISCONFIGURED, CANNOT_BIND, NO_PROGRAM = 2, 4, 203


def shown_for(service: Service, status: int) -> str:
    """The one line of `systemctl status` for a service that ended with this exit status and is not tried again."""
    shown = service.fail_to_start()
    assert re.search(rf"Main PID: .*status={status}[/)]", shown), shown
    assert "Traceback" not in service.journal()
    assert service.show("NRestarts") == "0"
    found = re.search(r'^ +Status: "(.*)"$', shown, re.MULTILINE)
    assert found, shown
    until(lambda: all(mistake in service.journal() for mistake in found[1].split("; ")))  # the journal has it too
    return found[1]


def test_a_bad_configuration(service: Service) -> None:
    service.configure(CONFIG.replace("false", "maybe", 1))
    assert "/etc/fabstird/config.toml" in shown_for(service, MISCONFIGURED)
    service.configure(CONFIG + "[connections]\nmax = -1\n[api]\nhtpp = 1\n")
    service.systemctl("reset-failed")
    line = shown_for(service, MISCONFIGURED)
    assert "connections.max" in line
    assert "api.htpp" in line


def test_a_wrong_path_in_the_unit(service: Service) -> None:
    service.drop_in("ExecStart=\nExecStart=/opt/fabstir/fabstird run")
    shown = service.fail_to_start()
    assert f"status={NO_PROGRAM}/EXEC" in shown
    assert "/opt/fabstir/fabstird: No such file or directory" in shown
    assert service.show("NRestarts") == "0"


def test_a_wrong_path_of_the_configuration(service: Service) -> None:
    service.drop_in("ExecStart=\nExecStart=/usr/local/bin/fabstird run --config /etc/fabstird/confg.toml")
    assert "/etc/fabstird/confg.toml" in shown_for(service, MISCONFIGURED)


@pytest.mark.parametrize("where", ["its own, read-only", "another, that is not allowed to it"])
def test_an_unwritable_state_directory(service: Service, where: str) -> None:
    if where == "its own, read-only":
        directory, reason = STATE, "Read-only file system"
        service.drop_in(f"ReadOnlyPaths={STATE}")
    else:
        directory, reason = "/srv/fabstird", "Permission denied"
        service.machine.run("install", "-d", "-m", "0755", directory)
        service.drop_in(
            f"ReadWritePaths={directory}\nExecStart=\nExecStart=/usr/local/bin/fabstird run --data-dir {directory}"
        )
    line = shown_for(service, MISCONFIGURED)
    assert directory in line
    assert reason in line


def test_a_credential_is_the_identity(service: Service, tmp_path: Path) -> None:
    identity = load_or_make(tmp_path / "identity.key")
    service.machine.write("/etc/credstore/fabstird.identity.key", (tmp_path / "identity.key").read_bytes(), 0o600)
    service.start()
    assert service.call("status")["peerId"] == identity.peer_id
    assert service.machine.run("test", "-e", f"{STATE}/identity.key", check=False).returncode == 1


def test_a_credential_that_is_no_key(service: Service) -> None:
    service.machine.write("/etc/credstore/fabstird.identity.key", os.urandom(68))
    line = shown_for(service, MISCONFIGURED)
    assert "identity.key is damaged" in line
    assert "systemctl cat fabstird" in line


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has run before"])
def test_a_full_disk(service: Service, has_run: bool) -> None:
    service.machine.shell(f"mkdir {STATE}; mount -t tmpfs -o size=1M,mode=0700,uid=fabstird,gid=fabstir state {STATE}")
    peer_id = None
    if has_run:
        service.start()
        peer_id = service.call("status")["peerId"]
        service.systemctl("stop")
    service.machine.run("dd", "if=/dev/zero", f"of={STATE}/filler", "bs=4k", check=False)
    line = shown_for(service, MISCONFIGURED)
    assert STATE in line
    assert "No space left on device" in line
    service.machine.run("rm", f"{STATE}/filler")
    service.start()
    assert peer_id in (None, service.call("status")["peerId"])


def test_a_socket_that_another_user_s_program_serves(service: Service) -> None:
    service.drop_in("Restart=no")
    program = f"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind({SOCKET!r}); s.listen(); time.sleep(600)"
    service.machine.run("systemd-run", "--unit=peer@socket", "--quiet", "/usr/bin/python3", "-c", program)
    until(lambda: service.machine.run("test", "-S", SOCKET, check=False).returncode == 0)
    service.machine.shell(f"chown stranger {SOCKET}; chmod 0600 {SOCKET}")
    line = shown_for(service, CANNOT_BIND)
    assert SOCKET in line
    assert "belongs to the user stranger" in line
    service.machine.run("chmod", "0666", SOCKET)
    service.systemctl("reset-failed")
    line = shown_for(service, CANNOT_BIND)
    assert "is served by another program" in line
