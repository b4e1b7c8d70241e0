"""Fits the output to the terminal's width. In tables and lists, ids are shortened to ``12D3…6iw4``, addresses lose a
peer id that is shown beside them, and instants lose their date or time. If that is not enough, cells are cut; addresses
are cut at the beginning, so that the port stays. In a pipe, and with ``--wide``, nothing is shortened."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

ID = re.compile(
    r"(?<![1-9A-HJ-NP-Za-km-z])(12D3KooW[1-9A-HJ-NP-Za-km-z]{44}|Qm[1-9A-HJ-NP-Za-km-z]{44})(?![0-9A-Za-z])"
)
NARROWEST = 9  # columns that a cell always keeps: the width of a short id
INSTANT = re.compile(r"\b([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{3})?(Z| UTC)")
ADDRESS = 16  # more columns that a column of addresses keeps
_columns: int | None = None


def fit_to(*, wide: bool) -> None:
    """From now on, fit the output to standard output; ``wide`` allows any width."""
    global _columns
    if wide or not sys.stdout.isatty():
        _columns = None
        return
    from shutil import get_terminal_size

    _columns = get_terminal_size().columns


def columns() -> int | None:
    """The width in columns; None for no limit."""
    return _columns


def dots() -> str:
    """The mark for omitted text, if the output can show it."""
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return ".."
    return "…"


def short_ids(text: str) -> str:
    """Shorten peer ids to their first and last four characters."""
    return ID.sub(lambda found: f"{found[0][:4]}{dots()}{found[0][-4:]}", text)


def without_id(text: str, ids: set[str]) -> str:
    """An address without the peer id at its end, if that is in ``ids`` and shown elsewhere."""
    front, separator, peer_id = text.rpartition("/p2p/")
    return front if separator and front and peer_id.partition(" ")[0] in ids else text


def brief_instants(text: str) -> str:
    """Shorten instants (UTC): those of today to the time, others to the date."""
    from time import gmtime, strftime

    today = strftime("%Y-%m-%d", gmtime())
    return INSTANT.sub(lambda found: f"{found[2]}Z" if found[1] == today else found[1], text)


def sentence(text: str) -> str:
    """A sentence with ids and addresses, wrapped if shortening is not enough."""
    if _columns is None or len(text) <= _columns:
        return text
    ids = set(ID.findall(" ".join(word for word in text.split(" ") if not word.startswith("/"))))
    brief = short_ids(" ".join(without_id(word, ids) if word.startswith("/") else word for word in text.split(" ")))
    if len(brief) <= _columns:
        return brief
    return wrapped(brief)


def wrapped(text: str) -> str:
    """Wrapped lines, all but the first indented; words are not broken."""
    from textwrap import wrap

    if _columns is None:
        return text
    text = short_ids(text)
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return "\n".join(wrap(text, _columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def broken(text: str, indent: int) -> list[str]:
    """Lines beside a margin of ``indent`` columns, with complete ids and paths."""
    from textwrap import wrap

    if _columns is None or _columns < 2 * indent:
        return [text]
    return wrap(text, _columns - indent, break_long_words=False, break_on_hyphens=False)


def cut(text: str, width: int) -> str:
    """At most ``width`` characters: the end of an address, the beginning of anything else."""
    if len(text) <= width:
        return text
    mark = dots()
    kept = max(0, width - len(mark))
    if text.startswith("/"):
        return mark + text[len(text) - kept :]
    return text[:kept] + mark


def fits(lines: Sequence[tuple[str, ...]]) -> bool:
    """Whether a table fits when only ids and addresses are shortened."""
    return _columns is None or min(_width(lines), _width([_shortened(line) for line in lines])) <= _columns


def fitted(lines: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows of a table, the first of which is its head, made to fit."""
    if _columns is None or _width(lines) <= _columns:
        return lines
    short = [lines[0], *(_shortened(line) for line in lines[1:])]
    widths = [max(map(len, cells)) for cells in zip(*short, strict=True)]
    least = [max(NARROWEST, len(name)) for name in short[0]]
    spared = [ADDRESS if any(line[at].startswith("/") for line in short[1:]) else 0 for at in range(len(widths))]
    while sum(widths) + 2 * (len(widths) - 1) > _columns:
        cuttable = [at for at, width in enumerate(widths) if width > least[at]]
        if not cuttable:
            break  # there is no room even for the heads
        widths[max(cuttable, key=lambda at: widths[at] - spared[at])] -= 1
    return [tuple(cut(cell, width) for cell, width in zip(line, widths, strict=True)) for line in short]


def _shortened(line: tuple[str, ...]) -> tuple[str, ...]:
    ids = set(ID.findall(" ".join(cell for cell in line if not cell.startswith("/"))))
    return tuple(brief_instants(short_ids(without_id(cell, ids))) for cell in line)


def _width(lines: Sequence[tuple[str, ...]]) -> int:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1)


def fitted_pairs(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fit names and values. An id that is a value of its own is kept complete; at the end of an address that is too
    long, it is omitted."""
    if _columns is None:
        return rows
    room = _columns - max((len(name) for name, _ in rows), default=0) - 2
    ids = {value for _, value in rows if ID.fullmatch(value)}
    return [
        (name, value if len(value) <= room else cut(short_ids(without_id(value, ids)), room)) for name, value in rows
    ]
