"""Completion scripts for bash, zsh and fish, made from a program's parser (`script`).

For words that only the daemon knows, such as peer ids, the shell asks the daemon that the command line names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `fabstird run` reads SHELLS at its start
    import argparse

    from fabstir_client._shells.words import Words

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, parser: argparse.ArgumentParser, words: Words) -> str:
    """The completion script for a shell, one of `SHELLS`."""
    from fabstir_client._shells.grammar import read

    text: str = import_module(f"fabstir_client._shells.{shell}").script(parser.prog, read(parser), words)
    return text
