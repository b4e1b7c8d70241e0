"""What `make uninstall` takes away, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.machine import SCRIPTS, Machine
from tests.service.unit import STATE, Service

OURS = ("/usr/local/bin", "/usr/local/lib", "/usr/local/share", "/etc/systemd/system", "/run")


@pytest.fixture
def put_back(machine: Machine, installed: Path) -> Iterator[None]:
    """It is installed again afterwards, for the tests that follow."""
    yield
    machine.unpack(installed)
    machine.run(f"{SCRIPTS}/install", "announce")


def test_an_uninstallation_leaves_the_state_and_the_configuration(service: Service, put_back: None) -> None:
    machine = service.machine
    machine.run("systemctl", "enable", "--now", "fabstird.socket")
    service.systemctl("enable", "--now")
    found = machine.run("find", *OURS, "-name", "*fabstir*").stdout
    assert "/usr/local/lib/fabstird\n" in found
    assert "/usr/local/share/man/man8/fabstird.8\n" in found
    for program in ("fabstir", "fabstird"):
        assert f"/usr/local/share/bash-completion/completions/{program}\n" in found
        assert f"/usr/local/share/zsh/site-functions/_{program}\n" in found
        assert f"/usr/local/share/fish/vendor_completions.d/{program}.fish\n" in found
    assert "/etc/systemd/system/multi-user.target.wants/fabstird.service\n" in found
    words = machine.run(f"{SCRIPTS}/install", "uninstall").stdout
    assert words.startswith("fabstird is uninstalled. What is left is yours: /var/lib/fabstird")
    assert machine.run("find", *OURS, "-name", "*fabstir*").stdout == ""
    assert "could not be found" in machine.run("systemctl", "status", "fabstird", check=False).stderr
    machine.run("test", "-s", f"{STATE}/identity.key")
    machine.run("test", "-s", "/etc/fabstird/config.toml")
