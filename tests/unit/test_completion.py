"""What bash, zsh and fish complete of `fabstir` and `fabstird`, asked of these shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabstir_client._shells import SHELLS
from fabstir_client.api.events import EVENT_DATA
from fabstir_client.cli.completion import script
from tests.conftest import leave_out

WITHIN = 60  # seconds; a bound, never a wait
# Stands for fabstir, which a shell asks for words that the daemon knows: it prints its arguments but for the last two
STAND_IN = '#!/bin/sh\n[ "$1" = --data-dir ] && [ "$2" = "$HOME/d" ] && echo asked:"$3-$4-$5"; echo 12D3KooWPeer\n'

# What is typed, and what is offered. The last word of a line is the one that is completed.
OFFERED = [
    ("fabstir sta", {"start", "status"}),
    ("fabstir peers --so", {"--sort"}),
    ("fabstir peers --sort l", {"latency"}),
    ("fabstir --json peers --wa", {"--watch"}),
    ("fabstir --data-dir peers sta", {"start", "status"}),  # a value is no command
    ("fabstir wait sto", {"stopped"}),
    ("fabstir log de", {"debug"}),
    ("fabstir token cr", {"create"}),
    ("fabstir completion ", set(SHELLS)),
    ("fabstir events --type connection:", {kind for kind in EVENT_DATA if kind.startswith("connection:")}),
    ("fabstir call token.", {"token.create", "token.list", "token.revoke"}),
    ("fabstir call nothing", set()),
    ("fabstir help annou", {"announce"}),
    ("fabstir ping ", {"12D3KooWPeer"}),
    ("fabstir --data-dir ~/d ping as", {"asked:peers---ids-"}),
    ("fabstir --data-dir ~/d token revoke as", {"asked:token-list---names"}),
    ("fabstir --data-dir ~/d log --logger as", {"asked:log---loggers-"}),
    ("fabstir --data-dir ~/d tunnel close as", {"asked:tunnel-list---ids"}),
    ("fabstird ch", {"check-config"}),
    ("fabstird run --con", {"--config"}),
    ("fabstird completion ", set(SHELLS)),
    ("fabstird run --set node.max", {"node.max_retries="}),
]


def scripts(shell: str) -> str:
    """Both programs' completions."""
    command = [sys.executable, "-m", "fabstird", "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=True)
    assert done.stderr == ""
    return script(shell) + done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's home with a `fabstir` that says what it is asked."""
    path = tmp_path_factory.mktemp("home")
    (path / "bin").mkdir()
    (path / "bin" / "fabstir").write_text(STAND_IN)
    (path / "bin" / "fabstir").chmod(0o755)
    return path


def offered(shell: str, config: pytest.Config, home: Path, program: str) -> dict[str, set[str]]:
    """What ``program``, a text for the shell, prints: a line of JSON for each of `OFFERED`."""
    if shutil.which(shell) is None:
        leave_out(config, shell, f"there is no {shell} here (package {shell})")
    environ = {"PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    (home / shell).write_text(program)
    arguments = {"zsh": ["-f"], "bash": ["--norc"], "fish": ["--no-config"]}[shell]
    command = [shell, *arguments, str(home / shell)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WITHIN, env=environ, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {}
    for block in done.stdout.split("\x02")[1:]:
        line, _, words = block.partition("\n")
        found[line] = set(words.split())
    return found


def test_bash_completes(pytestconfig: pytest.Config, home: Path) -> None:
    program = scripts("bash")
    for line, _ in OFFERED:
        # As bash does: it cuts words at colons and equals signs, too, and wants what is missing of the last of them
        program += f"COMP_LINE='{line}' COMP_POINT={len(line)} COMPREPLY=()\n_{line.partition(' ')[0]}\n"
        program += f"""printf '\\002%s\\n' '{line}'; printf '%s\\n' "${{COMPREPLY[@]}}"\n"""
    found = offered("bash", pytestconfig, home, program)
    for line, expected in OFFERED:
        whole = line.rpartition(" ")[2]
        known = whole[: max(whole.rfind(":"), whole.rfind("=")) + 1]
        assert found[line] == {word.removeprefix(known) for word in expected}, line


def test_fish_completes(pytestconfig: pytest.Config, home: Path) -> None:
    program = scripts("fish")
    for line, _ in OFFERED:
        program += f"printf '\\x02%s\\n' '{line}'; complete -C '{line}' | string split -f1 \\t\n"
    found = offered("fish", pytestconfig, home, program)
    for line, expected in OFFERED:
        assert found[line] == expected, line


# What the zsh at the terminal reads: whatever would be listed or inserted goes to a file, too
AT_TERMINAL = r"""
PS1= PS2= RPS1=
setopt no_prompt_cr no_prompt_sp
autoload -Uz compinit
compinit -u -D
source $HOME/scripts
compadd() {
    [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] && { builtin compadd "$@"; return }
    local -a offered
    builtin compadd -A offered "$@"
    print -rl -- $offered >>$HOME/words
    builtin compadd "$@"
}
zle -C offer list-choices _main_complete
told() { : >$HOME/told }
zle -N told
bindkey '^T' offer
bindkey '^G' told
: >$HOME/told
"""
ASKING = r"""
zmodload zsh/zpty
zpty terminal zsh -f -i
# It is told by a file, which says nothing of how a terminal shows it
awaited() {
    local -i at
    for (( at = 0; at < 3000; at++ )); do
        [[ -e $HOME/told ]] && { rm $HOME/told; return }
        sleep 0.01
    done
    exit 9
}
zpty -w terminal 'source $HOME/setup'
awaited
"""


def test_zsh_completes(pytestconfig: pytest.Config, home: Path) -> None:
    (home / "scripts").write_text(scripts("zsh"))
    (home / "setup").write_text(AT_TERMINAL)
    program = ASKING
    for line, _ in OFFERED:
        typed = f"{line}\\x14\\x07\\x15"  # Ctrl-T, Ctrl-G, and Ctrl-U: the line is empty again
        program += f": >$HOME/words; zpty -w -n terminal $'{typed}'; awaited\n"
        program += f"printf '\\x02%s\\n' '{line}'; cat $HOME/words\n"
    found = offered("zsh", pytestconfig, home, program + "zpty -d terminal\n")
    for line, expected in OFFERED:
        assert found[line] == expected, line
