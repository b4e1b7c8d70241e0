"""Completion for zsh, with its function `_arguments`."""

from __future__ import annotations

from fabstir_client._shells.grammar import Argument, Command, Option
from fabstir_client._shells.words import DAEMON, FILES, FOLDERS, Words, metavar, quoted, walk

# zsh's scoping is dynamic, so the functions called below see `fabstir_asked`.
ASKED = """\
    local -a fabstir_asked=(fabstir)
    integer at
    for (( at = 2; at < CURRENT - 1; at++ )); do
        case $words[at] in
        DAEMON) fabstir_asked+=($words[at] ${${(Q)words[at+1]}/#\\~\\//$HOME/}) ;;
        esac
    done"""


def script(program: str, root: Command, words: Words) -> str:
    """The completion script for zsh."""
    first = f"_{program}"
    lines = [f"#compdef {program}", f"# zsh completion for {program}: put it into a folder of $fpath, as {first}", ""]
    for command in walk(root):
        lines += _function(program, command, words)
    lines += [
        f'if [ "$funcstack[1]" = {first} ]; then',
        f'    {first} "$@"',
        "else",
        f"    compdef {first} {program}",
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _function(program: str, command: Command, words: Words) -> list[str]:
    specs = [_option(option, words) for option in command.options]
    if command.commands:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    specs += [_argument(argument, number, words) for number, argument in enumerate(command.arguments, 1)]
    lines = [f"{_name(program, command)}() {{", '    local context state state_descr line curcontext="$curcontext"',
             "    typeset -A opt_args"]  # fmt: skip
    if not command.name:
        lines += ASKED.replace("DAEMON", "|".join(DAEMON)).splitlines()
    lines += ["    _arguments -C -s \\", *(f"        {spec} \\" for spec in specs), "        && return 0"]
    if command.commands:
        described = [quoted(f"{below.name[-1]}:{below.text}") for below in command.commands]
        lines += ["    case $state in", "    command)", "        local -a commands", "        commands=("]
        lines += [f"            {text}" for text in described]
        lines += ["        )", "        _describe command commands ;;", "    rest)", "        case $line[1] in"]
        lines += [f"        {below.name[-1]}) {_name(program, below)} ;;" for below in command.commands]
        lines += ["        esac ;;", "    esac"]
    return [*lines, "}", ""]


def _name(program: str, command: Command) -> str:
    return "_".join((f"_{program}", *command.name))


def _text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _option(option: Option, words: Words) -> str:
    value = "" if option.value is None else f":{_text(option.value)}:{_action(option, words)}"
    names = f"{{{','.join(option.names)}}}" if len(option.names) > 1 else option.names[0]
    shown = f"[{_text(option.text)}]{value}"
    return names + quoted(shown) if len(option.names) > 1 else quoted(names + shown)


def _argument(argument: Argument, number: int, words: Words) -> str:
    gap = ":" if argument.required else "::"
    return quoted(f"{number}{gap}{_text(argument.text or argument.name)}:{_action(argument, words)}")


def _action(taker: Argument | Option, words: Words) -> str:
    known, question = words.of(taker), words.question(taker)
    if question:
        return f'{{compadd -- {" ".join(known)} ${{(f)"$($fabstir_asked {question} 2>/dev/null)"}}}}'
    if any(word.endswith("=") for word in known):  # no space after these, since more follows
        return f"{{compadd -S '' -- {' '.join(word for word in known if word.endswith('='))}; " + (
            f"compadd -- {' '.join(word for word in known if not word.endswith('='))}}}"
        )
    if known:
        return f"({' '.join(word.replace(':', chr(92) + ':') for word in known)})"
    if metavar(taker) in FOLDERS:
        return "_files -/"
    return "_files" if metavar(taker) in FILES else " "
