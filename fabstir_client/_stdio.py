"""Standard input, output and error as a program may find them: closed, full, or with nobody at the other end.

Both programs begin and end with this. It imports next to nothing, since it comes before everything else.
"""

from __future__ import annotations

import os
import sys

NARROWEST = 20  # columns; a terminal that says less, as some say 0, is let do it


def open_all() -> None:
    """Give descriptors 0 to 2 to the null device where they are closed: the next file or socket would get them, and
    whatever is printed would go there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # it gets the lowest number that is free
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def complain(line: str) -> None:
    """Write a line to standard error, in one piece, or let it be where nobody can read it. On a terminal it is broken
    between words."""
    try:
        sys.stderr.write(f"{_fitted(line)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr.fileno())


def _fitted(line: str) -> str:
    if not sys.stderr.isatty() or len(line) <= (columns := os.get_terminal_size(sys.stderr.fileno()).columns):
        return line
    if columns < NARROWEST:
        return line
    from textwrap import wrap

    return "\n".join(wrap(line, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def discard(number: int) -> None:
    """What is still buffered for this descriptor cannot be written: Python would try again at exit, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def finish() -> OSError | None:
    """Write what is buffered, before the interpreter does so at exit; what kept the output from being written."""
    failure = None
    try:
        sys.stdout.flush()
    except OSError as error:
        failure = error
        discard(1)
    try:
        sys.stderr.flush()
    except OSError:
        discard(2)
    return failure
