"""The tutorials and how-to pages of docs/, followed as a reader would. Those in TypeScript are in tests/clients."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.pages import Shell, follow
from tests.support.ports import free_port


def test_a_first_app_in_python(tmp_path: Path) -> None:
    with Shell(tmp_path / "home", tmp_path) as shell:
        assert follow("tutorials/first-app-python.md", {"ada": shell}, tmp_path) == 17


def test_two_machines(tmp_path: Path) -> None:
    with ExitStack() as stack:
        shells = {
            name: stack.enter_context(
                Shell(tmp_path / name, tmp_path, PORT=str(free_port()), ADA_PORT=str(free_port()))
            )
            for name in ("ada", "bob")
        }
        for shell in shells.values():
            shell.run("fabstird run 2>$HOME/log &")
            shell.run("fabstir wait started --timeout 60")
        ids = {name: shell.run("fabstir id").strip() for name, shell in shells.items()}
        address = shells["bob"].run("fabstir --json status | grep -o '/ip4/[^\"]*'").strip()
        for shell in shells.values():
            shell.run(f"ADA={ids['ada']} BOB={ids['bob']} BOB_ADDRESS={address}")
        assert follow("tutorials/two-machines.md", shells, tmp_path) == 11
        for shell in shells.values():
            shell.run("fabstir shutdown")


def test_backup_and_upgrade(tmp_path: Path) -> None:
    """What a user runs of them; the service's part needs root and systemd."""
    with Shell(tmp_path / "home", tmp_path) as shell:
        made = shell.run("fabstird id")
        assert follow("how-to/backup.md", {"ada": shell}, tmp_path) == 4
        assert shell.run("fabstird id") == made
        shell.run("cmp ~/identity.backup ~/.local/state/fabstird/identity.key")
        shell.run("mkdir -p .venv/bin && ln -s $(command -v fabstird) .venv/bin/fabstird")
        assert follow("how-to/upgrade.md", {"ada": shell}, tmp_path) == 1
