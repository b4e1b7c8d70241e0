"""Completion for fish."""

from __future__ import annotations

from collections.abc import Iterator

from fabstir_client._shells.grammar import Argument, Command, Option
from fabstir_client._shells.words import DAEMON, FILES, FOLDERS, Words, metavar, quoted, walk

# Whether the line has reached the given command. Values of options are skipped.
PATH = """\
function __PROGRAM_path
    set -l path ""
    set -l value 0
    for word in (commandline -opc)[2..-1]
        if test $value = 1
            set value 0
        else if contains -- $word VALUED
            set value 1
        else if contains -- "$path $word" COMMANDS
            set path "$path $word"
        end
    end
    test "$path" = "$argv"
end"""

ASK = """\
function __PROGRAM_ask
    set -l asked fabstir
    set -l line (commandline -opc)
    for at in (seq 2 (count $line))
        if contains -- $line[$at] DAEMON; and set -q line[(math $at + 1)]
            set -a asked $line[$at] (string replace -r '^~/' "$HOME/" -- $line[(math $at + 1)])
        end
    end
    command $asked $argv 2>/dev/null
end"""


def script(program: str, root: Command, words: Words) -> str:
    """The completion script for fish."""
    options = [option for command in walk(root) for option in command.options]
    valued = {name for option in options if option.value is not None for name in option.names}
    paths = [quoted("".join(f" {word}" for word in command.name)) for command in walk(root) if command.name]
    head = f"{PATH}\n{ASK}".replace("VALUED", " ".join(sorted(valued)) or '""').replace("COMMANDS", " ".join(paths))
    lines = [
        f"# fish completion for {program}: put it into ~/.config/fish/completions/{program}.fish",
        *head.replace("DAEMON", " ".join(DAEMON)).replace("PROGRAM", program).splitlines(),
        f"complete -c {program} -f",
    ]
    for command in walk(root):
        at = "".join(f" {word}" for word in command.name)
        start = f"complete -c {program} -n {quoted(f'__{program}_path {quoted(at)}')}"
        lines += [f"{start} -a {below.name[-1]} -d {quoted(below.text)}" for below in command.commands]
        for option in command.options:
            flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            lines.append(f"{start} {flags} -d {quoted(option.text)}{_value(program, option, words)}")
        for argument in command.arguments:
            lines += [f"{start} {offer}" for offer in _offers(program, argument, words)]
            if metavar(argument) in FILES:
                lines.append(f"{start} -F")
    return "\n".join(lines) + "\n"


def _offers(program: str, taker: Argument | Option, words: Words) -> Iterator[str]:
    known, question = words.of(taker), words.question(taker)
    if known:
        yield f"-a {quoted(' '.join(known))}"
    if question:
        yield f"-a '(__{program}_ask {question})'"
    if metavar(taker) in FOLDERS:
        yield "-a '(__fish_complete_directories)'"


def _value(program: str, option: Option, words: Words) -> str:
    if option.value is None:
        return ""
    if metavar(option) in FILES:
        return " -r -F"
    return " ".join([" -x", *_offers(program, option, words)])
