"""``fabstir completion``: what makes bash, zsh and fish complete its commands, from the parser itself.

Where a peer is asked for, the shell asks the daemon for the connected ones: nobody types 52 characters.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from fabstir_client.cli_grammar import Argument, Command, Option, read
from fabstir_client.discovery import Target

PEERS = ("PEER", "PEERID", "TARGET")  # metavars for which connected peers are offered
FILES = ("FILE",)
FOLDERS = ("DIR",)
CONDITIONS = ("ready", "started", "stopped", "peers=", "peer=")


def run(_: Target, args: argparse.Namespace, __: Callable[[str, int], int]) -> int:
    from fabstir_client.cli import parser

    print(script(args.shell, read(parser())), end="")
    return 0


def script(shell: str, whole: Command) -> str:
    """The text that the shell is to read."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](whole)


def _walk(command: Command) -> Iterator[Command]:
    yield command
    for one in command.commands:
        yield from _walk(one)


def _words(command: Command) -> list[str]:
    """What may stand next: commands below, choices of arguments."""
    found = [one.name[-1] for one in command.commands]
    for argument in command.arguments:
        found += argument.choices or (CONDITIONS if argument.name == "CONDITION" else ())
    return found


def _asks(command: Command, names: tuple[str, ...]) -> bool:
    return any(argument.name in names for argument in command.arguments)


def _valued(command: Command) -> Iterator[Option]:
    return (option for option in command.options if option.value is not None)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --------------------------------------------------------------------------------------------------------------------


def _bash(whole: Command) -> str:
    lines = [
        "# bash completion for fabstir: put it into ~/.local/share/bash-completion/completions/fabstir",
        "_fabstir() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local path="" word words="" skip=""',
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        if [ -n "$skip" ]; then skip=""; continue; fi',
        '        case "$path $word" in',
    ]
    for command in _walk(whole):
        path = " ".join(command.name)
        # The path grows by each word that is a command below it
        lines += [f"            {_quoted(f'{path} {one.name[-1]}')}) path={_quoted(' '.join(one.name))} ;;"
                  for one in command.commands]  # fmt: skip
    valued = sorted({name for command in _walk(whole) for option in _valued(command) for name in option.names})
    lines += [
        '            *) case "$word" in ' + "|".join(valued) + ") skip=1 ;; esac ;;",
        "        esac",
        "    done",
        '    case "$before" in',
    ]
    lines += [f"        {'|'.join(names)}) {action}; return ;;" for names, action in _bash_values(whole)]
    lines += ["    esac", '    case "$path" in']
    for command in _walk(whole):
        options = " ".join(name for option in command.options for name in option.names)
        lines.append(f"        {_quoted(' '.join(command.name))})")
        lines.append(f"            words={_quoted(' '.join(_words(command)))}")
        if _asks(command, PEERS):
            lines.append('            words="$words $(fabstir peers --ids 2>/dev/null)"')
        if _asks(command, FILES):
            lines.append('            COMPREPLY=($(compgen -f -- "$current"))')
        lines.append(f'            case "$current" in -*) words={_quoted(options)} ;; esac ;;')
    lines += [
        "    esac",
        '    COMPREPLY+=($(compgen -W "$words" -- "$current"))',
        '    case "${COMPREPLY[*]}" in *=) compopt -o nospace 2>/dev/null ;; esac',
        "}",
        "complete -F _fabstir fabstir",
    ]
    return "\n".join(lines) + "\n"


def _bash_values(whole: Command) -> Iterator[tuple[list[str], str]]:
    seen: set[str] = set()
    for command in _walk(whole):
        for option in _valued(command):
            names = [name for name in option.names if name not in seen]
            seen.update(names)
            if not names:
                continue
            if option.choices:
                yield names, f'COMPREPLY=($(compgen -W {_quoted(" ".join(option.choices))} -- "$current"))'
            elif option.value in FOLDERS:
                yield names, 'COMPREPLY=($(compgen -d -- "$current"))'
            elif option.value in FILES:
                yield names, 'COMPREPLY=($(compgen -f -- "$current"))'
            else:
                yield names, "COMPREPLY=()"


# --------------------------------------------------------------------------------------------------------------------


def _zsh(whole: Command) -> str:
    lines = ["#compdef fabstir", "# zsh completion for fabstir: put it into a folder of $fpath, as _fabstir", ""]
    for command in _walk(whole):
        lines += _zsh_function(command)
    lines += [
        'if [ "$funcstack[1]" = _fabstir ]; then',
        '    _fabstir "$@"',
        "else",
        "    compdef _fabstir fabstir",
        "fi",
    ]
    return "\n".join(lines) + "\n"


def _zsh_function(command: Command) -> list[str]:
    specs = [_zsh_option(option) for option in command.options]
    if command.commands:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    specs += [_zsh_argument(argument, number) for number, argument in enumerate(command.arguments, 1)]
    lines = [f"{_zsh_name(command)}() {{", "    local context state state_descr line curcontext=\"$curcontext\"",
             "    typeset -A opt_args", "    _arguments -C -s \\"]  # fmt: skip
    lines += [f"        {spec} \\" for spec in specs]
    lines.append("        && return 0")
    if command.commands:
        described = [_quoted(f"{one.name[-1]}:{one.text}") for one in command.commands]
        lines += ["    case $state in", "    command)", "        local -a commands", "        commands=("]
        lines += [f"            {one}" for one in described]
        lines += ["        )", "        _describe command commands ;;", "    rest)", "        case $line[1] in"]
        lines += [f"        {one.name[-1]}) {_zsh_name(one)} ;;" for one in command.commands]
        lines += ["        esac ;;", "    esac"]
    return [*lines, "}", ""]


def _zsh_name(command: Command) -> str:
    return "_".join(("_fabstir", *command.name))


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def _zsh_option(option: Option) -> str:
    value = "" if option.value is None else f":{_zsh_text(option.value)}:{_zsh_action(option.value, option.choices)}"
    names = f"{{{','.join(option.names)}}}" if len(option.names) > 1 else option.names[0]
    shown = f"[{_zsh_text(option.text)}]{value}"
    return names + _quoted(shown) if len(option.names) > 1 else _quoted(names + shown)


def _zsh_argument(argument: Argument, number: int) -> str:
    gap = ":" if argument.required else "::"
    choices = argument.choices or (CONDITIONS if argument.name == "CONDITION" else ())
    return _quoted(f"{number}{gap}{_zsh_text(argument.text or argument.name)}:{_zsh_action(argument.name, choices)}")


def _zsh_action(name: str, choices: tuple[str, ...]) -> str:
    if choices:
        return f"({' '.join(choices)})"
    if name in PEERS:
        return '{compadd -- ${(f)"$(fabstir peers --ids 2>/dev/null)"}}'
    if name in FOLDERS:
        return "_files -/"
    return "_files" if name in FILES else " "


# --------------------------------------------------------------------------------------------------------------------


def _fish(whole: Command) -> str:
    lines = [
        "# fish completion for fabstir: put it into ~/.config/fish/completions/fabstir.fish",
        "complete -c fabstir -f",
    ]
    for command in _walk(whole):
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.name]
        if command.commands:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(one.name[-1] for one in command.commands)}")
        when = _quoted("; and ".join(seen)) if seen else "''"
        start = f"complete -c fabstir -n {when}"
        for one in command.commands:
            lines.append(f"{start} -a {one.name[-1]} -d {_quoted(one.text)}")
        for option in command.options:
            flags = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            lines.append(f"{start} {flags} -d {_quoted(option.text)}{_fish_value(option)}")
        for argument in command.arguments:
            choices = argument.choices or (CONDITIONS if argument.name == "CONDITION" else ())
            if choices:
                lines.append(f"{start} -a {_quoted(' '.join(choices))}")
            elif argument.name in PEERS:
                lines.append(f"{start} -a '(fabstir peers --ids 2>/dev/null)'")
            elif argument.name in FILES:
                lines.append(f"{start} -F")
    return "\n".join(lines) + "\n"


def _fish_value(option: Option) -> str:
    if option.value is None:
        return ""
    if option.choices:
        return f" -x -a {_quoted(' '.join(option.choices))}"
    if option.value in FOLDERS:
        return " -x -a '(__fish_complete_directories)'"
    return " -r -F" if option.value in FILES else " -x"
