"""Which words may stand for an argument or for an option's value, by its metavar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fabstir_client._shells.grammar import Argument, Command, Option

FILES = ("FILE",)
FOLDERS = ("DIR",)
DAEMON = ("--api", "--data-dir")  # the options that name the daemon to ask


@dataclass(frozen=True, slots=True)
class Words:
    """``fixed`` are the words themselves; one that ends with "=" goes on. ``asked`` are the arguments with which
    `fabstir` prints them, one a line."""

    fixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def of(self, one: Argument | Option) -> tuple[str, ...]:
        """Those that are known here."""
        return one.choices or self.fixed.get(metavar(one), ())

    def question(self, one: Argument | Option) -> str | None:
        """What to ask `fabstir` for more."""
        return self.asked.get(metavar(one))


def metavar(one: Argument | Option) -> str:
    """The name that stands for it in the help; empty for a switch."""
    return one.name if isinstance(one, Argument) else one.value or ""


def walk(command: Command) -> Iterator[Command]:
    """The command and all below it."""
    yield command
    for one in command.commands:
        yield from walk(one)


def quoted(text: str) -> str:
    """As one word, whatever is in it; for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"
