"""One machine under systemd for all tests of the service, with fabstird installed in it by `make install`.

What these need is looked at once: root, and a systemd. Where they cannot be had the tests are left out loudly, or fail
where they are required: `FABSTIR_REQUIRE=root`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import leave_out
from tests.service.machine import PROJECT, SCRIPTS, Machine, booted, has_systemd
from tests.service.unit import Service


@pytest.fixture(scope="session")
def systemd(root: None, pytestconfig: pytest.Config) -> None:
    """Whoever uses it may boot machines under systemd."""
    if (reason := has_systemd()) is not None:
        leave_out(pytestconfig, "root", f"boots systemd: {reason}")


@pytest.fixture(scope="session")
def installed(systemd: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `make install` has put fabstird, for a machine to be made of it."""
    tree = tmp_path_factory.mktemp("installed")
    ran = subprocess.run(
        ["make", "install", f"DESTDIR={tree}"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return tree


@pytest.fixture(scope="session")
def machine(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With users: ``member`` is in the group fabstir, ``stranger`` is not."""
    with booted(tmp_path_factory.mktemp("machine") / "log") as machine:
        machine.unpack(installed)
        machine.unpack(PROJECT / "scripts", SCRIPTS)
        machine.run(f"{SCRIPTS}/install", "announce")
        machine.shell("useradd --create-home --groups fabstir member; useradd --create-home stranger")
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """The service, as installed and not yet started; afterwards the machine is as before."""
    service = Service(machine)
    service.reset()
    yield service
    service.reset()
