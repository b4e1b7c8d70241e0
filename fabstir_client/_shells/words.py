"""The words that an argument or an option's value can be completed with, by its metavar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fabstir_client._shells.grammar import Argument, Command, Option

FILES = ("FILE",)
FOLDERS = ("DIR",)
DAEMON = ("--api", "--data-dir")  # options that say which daemon to ask


@dataclass(frozen=True, slots=True)
class Words:
    """``fixed`` holds words by metavar; after a word that ends with "=", more follows. ``asked`` holds the arguments
    with which `fabstir` prints further words, one per line."""

    fixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def of(self, taker: Argument | Option) -> tuple[str, ...]:
        """The fixed words for an argument or an option's value."""
        return taker.choices or self.fixed.get(metavar(taker), ())

    def question(self, taker: Argument | Option) -> str | None:
        """The arguments with which `fabstir` prints further words."""
        return self.asked.get(metavar(taker))


def metavar(taker: Argument | Option) -> str:
    """Its placeholder in the help; empty for a switch."""
    return taker.name if isinstance(taker, Argument) else taker.value or ""


def walk(command: Command) -> Iterator[Command]:
    """The command, and all commands below it."""
    yield command
    for below in command.commands:
        yield from walk(below)


def quoted(text: str) -> str:
    """The text as one word for bash and zsh, whatever it contains."""
    return "'" + text.replace("'", "'\\''") + "'"
