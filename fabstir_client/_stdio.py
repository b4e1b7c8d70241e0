"""Handles standard input, output and error that are closed, full, or have nobody at the other end.

Both programs start and end with this. It imports almost nothing, because it runs before everything else.
"""

from __future__ import annotations

import os
import sys

NARROWEST = 20  # columns; lines are not wrapped if the terminal reports fewer, as some report 0


def open_all() -> None:
    """Open the null device on descriptors 0 to 2 if they are closed. Otherwise the next file or socket would get the
    number, and receive what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # gets the lowest free number
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def complain(line: str) -> None:
    """Write a line to standard error in one piece, or discard it if that fails. On a terminal it is wrapped between
    words."""
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
    """Discard what is buffered for a descriptor that cannot be written. Otherwise Python would try again at exit, and
    print an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def finish() -> OSError | None:
    """Write what is buffered before the interpreter does so at exit. Returns the error if standard output cannot be
    written."""
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
