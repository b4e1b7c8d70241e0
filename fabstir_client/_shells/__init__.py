"""What makes bash, zsh and fish complete the commands of a program, from its parser: `script`.

Where a word is known to the daemon alone, such as a peer's id, the shell asks the daemon that the line names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `fabstird run` reads SHELLS at its start
    import argparse

    from fabstir_client._shells.words import Words

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, parser: argparse.ArgumentParser, words: Words) -> str:
    """The text that the shell, one of `SHELLS`, is to read."""
    from fabstir_client._shells.grammar import read

    made: str = import_module(f"fabstir_client._shells.{shell}").script(parser.prog, read(parser), words)
    return made
