"""The argument parser of both programs. A mistake is reported in one line, which suggests the closest command or
option."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from fabstir_client import _stdio

USAGE = 2


class Help(argparse.HelpFormatter):
    """A formatter that does not ask the terminal for its width: argparse makes one for every option, and asking is
    slow."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=int(columns) if columns.isdecimal() and int(columns[:6]) > 20 else 80)


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line and exits with `USAGE`. Options cannot be abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=Help, allow_abbrev=False, **settings)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """An unknown option is reported first: argparse would take its value for a command or an argument."""
        given = sys.argv[1:] if args is None else list(args)
        if (unknown := self._unknown(given)) is not None:
            self.error(unknown)
        found, rest = super().parse_known_args(given, namespace)
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        return found, rest

    def _unknown(self, given: list[str]) -> str | None:
        """The error for the first option that does not exist; None if there is none. Options after a command are left
        to the command's parser."""
        options = {name: action for action in self._actions for name in action.option_strings}
        commands = _commands(self)
        words = iter(given)
        for word in words:
            name = word.partition("=")[0]
            if word == "--":
                break
            if name in options:
                if commands and options[name].nargs != 0 and name == word:
                    next(words, None)  # its value
            elif _is_option(word) and word[:2] not in options:
                return self._refusal(name, options, commands)
            elif commands:
                break
        return None

    def _refusal(self, name: str, options: Iterable[str], commands: dict[str, argparse.ArgumentParser]) -> str:
        for command in commands.values():
            if any(name in action.option_strings for action in command._actions):
                return f"{name} belongs after the command: {command.prog} {name}"
        return f"there is no option {name}{meant(name, options)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """For an unknown command, suggest close ones instead of listing all."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            raise argparse.ArgumentError(None, f"there is no command {value!r}{meant(value, action.choices)}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        _stdio.complain(f"{self.prog.split()[0]}: {message}; see {self.prog} --help")
        raise SystemExit(USAGE)


def meant(word: str, known: Iterable[str]) -> str:
    """The known words closest to ``word``, in brackets; empty if none is close."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: command for choices in _choices(parser) for name, command in choices.items()}


def _choices(parser: argparse.ArgumentParser) -> Iterator[dict[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield dict(action.choices)


def _is_option(word: str) -> bool:
    """Whether argparse takes the word for an option: negative numbers and texts with blanks are none."""
    return len(word) > 1 and word.startswith("-") and " " not in word and not re.fullmatch(r"-\d+|-\d*\.\d+", word)
