"""The Debian package: built by `make deb`, installed by dpkg under the real systemd, started, upgraded and purged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.machine import PROJECT, Machine, booted, until
from tests.service.unit import CONFIG, SOCKET, STATE, Service

PACKAGE = "/opt/fabstird.deb"


@pytest.fixture(scope="module")
def package(systemd: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("deb")
    quick = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}  # xz takes half of the test's time
    done = subprocess.run(
        ["make", "deb"],
        cwd=PROJECT,
        env={**os.environ, **quick, "DIST": str(dist), "PYTHON": "/usr/bin/python3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "is another" in done.stderr or not Path("/usr/bin/dpkg-deb").exists():
        pytest.skip("this is no Debian with a Python of its own that is new enough")
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = dist.glob("fabstird_*.deb")
    return built


@pytest.fixture
def bare(package: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine that has never seen fabstird, and the package in it."""
    with booted(tmp_path / "log") as machine:
        machine.write(PACKAGE, package.read_bytes())
        yield machine


def test_a_package_is_installed_started_upgraded_and_purged(bare: Machine) -> None:
    bare.run("dpkg", "--install", PACKAGE)
    service = Service(bare)
    assert service.show("ActiveState") == "inactive", "installing starts nothing"
    assert service.show("FragmentPath").endswith("/lib/systemd/system/fabstird.service")
    assert bare.run("dpkg", "--verify", "fabstird").stdout == ""
    assert bare.run("find", "/usr/lib/fabstird", "-not", "-user", "root").stdout == ""
    service.configure(CONFIG)
    bare.shell("useradd --create-home --groups fabstir member")
    service.systemctl("enable", "--now")
    bare.run("fabstir", "wait", "started", "--timeout", "60", user="member")
    peer = service.call("status")["peerId"]
    assert bare.run("stat", "-c", "%a %U %G", SOCKET).stdout == "660 fabstird fabstir\n"

    before = service.pid
    bare.run("dpkg", "--install", PACKAGE)  # the same again is an upgrade to dpkg
    until(lambda: service.pid not in (0, before) and service.show("SubState") == "running")
    assert service.call("status")["peerId"] == peer

    bare.run("dpkg", "--remove", "fabstird")
    assert service.show("ActiveState") == "inactive"
    bare.run("test", "-s", f"{STATE}/identity.key")
    left = bare.run(
        "find", "/usr/bin", "/usr/lib/fabstird", "/usr/lib/systemd", "/usr/share", "-name", "fabstir*", check=False
    )
    assert left.stdout == ""
    bare.run("dpkg", "--purge", "fabstird")
    assert bare.run("find", "/var/lib/fabstird", "/etc/fabstird", "/run/fabstird", check=False).stdout == ""
