"""What `make uninstall` takes away, and what it leaves. It comes last: the other tests want what it removes."""

from __future__ import annotations

from tests.service.unit import STATE, Service

OURS = ("/usr/local/bin", "/usr/local/lib", "/usr/local/share", "/etc/systemd/system", "/run")


def test_an_uninstallation_leaves_the_state_and_the_configuration(service: Service) -> None:
    machine = service.machine
    machine.run("systemctl", "enable", "--now", "fabstird.socket")
    service.systemctl("enable", "--now")
    found = machine.run("find", *OURS, "-name", "*fabstir*").stdout
    assert "/usr/local/lib/fabstird\n" in found
    assert "/etc/systemd/system/multi-user.target.wants/fabstird.service\n" in found
    words = machine.run("/root/fabstird/scripts/install", "uninstall").stdout
    assert words.startswith("fabstird is uninstalled. What is left is yours: /var/lib/fabstird")
    assert machine.run("find", *OURS, "-name", "*fabstir*").stdout == ""
    assert (
        machine.run("systemctl", "status", "fabstird", check=False).stderr
        == "Unit fabstird.service could not be found.\n"
    )
    machine.run("test", "-s", f"{STATE}/identity.key")
    machine.run("test", "-s", "/etc/fabstird/config.toml")
