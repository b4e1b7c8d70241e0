"""Completion for bash, without the package bash-completion.

Bash also splits words at colons and equals signs, which event types and addresses contain, so the script splits the
line itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from fabstir_client._shells.grammar import Argument, Command, Option
from fabstir_client._shells.words import DAEMON, FILES, FOLDERS, Words, metavar, quoted, walk

# `line` holds the words before the cursor; the last of them is `current`.
READ = """\
    local line=() asked=(fabstir) path="" word words="" value="" current before
    read -ra line <<<"${COMP_LINE:0:COMP_POINT}"
    case "${COMP_LINE:0:COMP_POINT}" in *[[:space:]]) line+=("") ;; esac
    current="${line[-1]}" before="${line[-2]}"
    for word in "${line[@]:1:${#line[@]}-2}"; do
        case "$value" in
            "") ;;
            DAEMON) asked+=("$value" "${word/#\\~\\//$HOME/}"); value=""; continue ;;
            *) value=""; continue ;;
        esac"""

# Bash keeps the word up to its last colon or equals sign, and wants only the rest.
ANSWER = """\
    COMPREPLY+=($(compgen -W "$words" -- "$current"))
    case "${COMPREPLY[*]}" in *=) compopt -o nospace 2>/dev/null ;; esac
    case "$COMP_WORDBREAKS" in
        *:*) word="${current%"${current##*[:=]}"}"; COMPREPLY=("${COMPREPLY[@]#"$word"}") ;;
    esac"""


def script(program: str, root: Command, words: Words) -> str:
    """The completion script for bash."""
    lines = [
        f"# bash completion for {program}: put it into ~/.local/share/bash-completion/completions/{program}",
        f"_{program}() {{",
        READ.replace("DAEMON", "|".join(DAEMON)),
        '        case "$path $word" in',
    ]
    for command in walk(root):
        path = " ".join(command.name)
        # Each word that names a subcommand extends the path.
        lines += [f"            {quoted(f'{path} {below.name[-1]}')}) path={quoted(' '.join(below.name))} ;;"
                  for below in command.commands]  # fmt: skip
    valued = sorted({name for command in walk(root) for option in _valued(command) for name in option.names})
    if valued:
        lines.append('            *) case "$word" in ' + "|".join(valued) + ') value="$word" ;; esac ;;')
    lines += ["        esac", "    done", '    case "$before" in']
    # An option means the same in every command.
    options = {option.names: option for command in walk(root) for option in _valued(command)}
    for names, option in options.items():
        lines += [f"        {'|'.join(names)})", *_offers(option, words), *ANSWER.splitlines(), "            return ;;"]
    lines += ["    esac", '    case "$path" in']
    for command in walk(root):
        flags = " ".join(name for option in command.options for name in option.names)
        lines.append(f"        {quoted(' '.join(command.name))})")
        lines.append(f'            words="$words "{quoted(" ".join(below.name[-1] for below in command.commands))}')
        for argument in command.arguments:
            lines += _offers(argument, words)
        lines.append(f'            case "$current" in -*) COMPREPLY=() words={quoted(flags)} ;; esac ;;')
    lines += ["    esac", *ANSWER.splitlines(), "}", f"complete -F _{program} {program}"]
    return "\n".join(lines) + "\n"


def _valued(command: Command) -> Iterator[Option]:
    return (option for option in command.options if option.value is not None)


def _offers(taker: Argument | Option, words: Words) -> Iterator[str]:
    known, question = words.of(taker), words.question(taker)
    if known:
        yield f'            words="$words "{quoted(" ".join(known))}'
    if question:
        yield f'            words="$words $("${{asked[@]}}" {question} 2>/dev/null)"'
    if metavar(taker) in FILES:
        yield '            COMPREPLY+=($(compgen -f -- "$current"))'
    if metavar(taker) in FOLDERS:
        yield '            COMPREPLY+=($(compgen -d -- "$current"))'
