"""A command line as data, read from its parser. The completion scripts and the man pages are made from it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    text: str
    value: str | None  # its metavar; None for a switch
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument:
    name: str  # its metavar
    text: str
    required: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """``name`` holds the words before its arguments, such as ("token", "create")."""

    name: tuple[str, ...]
    text: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...] = field(default=())


def read(parser: argparse.ArgumentParser, name: tuple[str, ...] = (), text: str = "") -> Command:
    """The command of a parser, with its subcommands."""
    options, arguments, below = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            below += [read(inner, (*name, word), helps.get(word, "")) for word, inner in action.choices.items()]
        elif action.option_strings:
            value = None if action.nargs == 0 else _metavar(action)
            options.append(Option(tuple(action.option_strings), _help(action), value, _choices(action)))
        else:
            required = action.nargs not in ("?", "*")
            arguments.append(Argument(_metavar(action), _help(action), required, _choices(action)))
    return Command(name, text or parser.description or "", tuple(options), tuple(arguments), tuple(below))


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(_choices(action)) or action.dest.upper()


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(str(choice) for choice in action.choices or ())


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
