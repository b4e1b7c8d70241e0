"""What `make run` says of the network before it starts the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_locks import ROOT


def said(home: Path, *arguments: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FABSTIR", "XDG_"))}
    given = [*arguments[:1], "--config", str(home / "config.toml"), *arguments[1:]]
    if arguments[:1] != ("--then",):
        given = ["--config", str(home / "config.toml"), *arguments]
    command = [sys.executable, str(ROOT / "scripts" / "say-open"), *given]
    (home / "config.toml").touch()
    done = subprocess.run(
        command, env={**kept, "HOME": str(home)}, capture_output=True, text=True, timeout=60, check=True, cwd=home
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_the_defaults_are_open_to_peers_and_to_nobody_else(tmp_path: Path) -> None:
    lines = said(tmp_path)
    assert lines[0] == "Open to the network:"
    assert lines[1].startswith("  libp2p at /ip4/0.0.0.0/tcp/0: peers only")
    assert lines[2].startswith("  mDNS, UDP port 5353")
    assert not any("the API at" in line for line in lines)
    alone = """--set 'node.listen_addresses=["/ip4/127.0.0.1/tcp/0"]'"""
    keep = lines.index("To keep it to this machine:")
    assert lines[keep + 1].endswith(f"/fabstird run --config {tmp_path}/config.toml {alone}")


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/4001"])
def test_loopback_alone_is_nothing(tmp_path: Path, address: str) -> None:
    assert said(tmp_path, "--set", f'node.listen_addresses=["{address}"]') == ["Open to the network:", "  nothing"]


def test_an_api_on_the_network_is_named(tmp_path: Path) -> None:
    lines = said(tmp_path, "--set", "node.listen_addresses=[]", "--set", "api.http=0.0.0.0:4780")
    assert lines == ["Open to the network:", "  the API at 0.0.0.0:4780, for whoever has a token"]


def test_of_a_wrong_configuration_it_says_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, "--set", "node.dial_timeout=-1") == []


def test_what_to_run_next_names_the_same_daemon(tmp_path: Path) -> None:
    lines = said(tmp_path, "--then", "--data-dir", f"{tmp_path}/my node")
    assert lines[-2] == "When it runs, in another terminal:"
    assert lines[-1].endswith(f"/fabstir --data-dir '{tmp_path}/my node' status")
    assert said(tmp_path, "--then")[-1].endswith("/fabstir status")
