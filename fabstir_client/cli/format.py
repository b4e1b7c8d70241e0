"""How ``fabstir`` prints values, tables and events for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fabstir_client.cli import fitting

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def readable(render: Callable[[Any], str], result: Any) -> str:
    """The rendered ``result``; as JSON if it is not as expected. Another version of the daemon, or some other program,
    may have answered anything."""
    try:
        return render(result)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it should be shown
        return as_text(result)


def clean(value: Any) -> str:
    """``value`` in one line, without control characters, since strangers sent much of it."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(milliseconds: float) -> str:
    """``3d 4h``, ``4h 5m``, ``5m 6s`` or ``6s``."""
    seconds = int(milliseconds) // 1000
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller}{smaller_unit}"
    return f"{seconds}s"


def counted(number: int, thing: str) -> str:
    """``1 peer``, ``2 peers``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def instant(milliseconds: int) -> str:
    """UTC to the millisecond, as in the daemon's log; the number itself if no calendar has it."""
    return _utc(milliseconds, f".{milliseconds % 1000:03d}Z")


def second(milliseconds: int) -> str:
    """UTC, to the second."""
    return _utc(milliseconds, "Z")


def _utc(milliseconds: int, end: str) -> str:
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(milliseconds // 1000)) + end
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def event_line(event: Mapping[str, Any], *, colour: bool = False) -> str:
    """One event in one line, in ``colour`` for a terminal."""
    details, kind = inline(event["data"]), f"{clean(event['type']):<20}"
    when, number = instant(event["time"]), f"{event['seq']:>5}"
    if (columns := fitting.columns()) is not None:
        when = when.rpartition(" ")[2]  # a live reader knows the day
        details = fitting.cut(_brief(event["data"]), max(0, columns - len(f"{when}  {number}  {kind}  ")))
    if colour:
        when, number, kind = f"{DIM}{when}{PLAIN}", f"{DIM}{number}{PLAIN}", f"{_colour(event['type'])}{kind}{PLAIN}"
    return f"{when}  {number}  {kind}  {details}".rstrip()


def _brief(data: Any) -> str:
    """As `inline`, with short ids, each shown once."""
    ids = {value for value in data.values() if isinstance(value, str)} if isinstance(data, dict) else set()
    if isinstance(data, dict):
        data = {name: fitting.without_id(text, ids) if isinstance(text, str) else text for name, text in data.items()}
    return fitting.short_ids(inline(data))


def _colour(kind: str) -> str:
    """Green for what arrived, yellow for what left or waits, red for failures, blue for the node."""
    if kind in ("error", "connection:failed"):
        return "\x1b[31;1m"
    if kind.startswith("p2p:"):
        return "\x1b[34;1m"
    return "\x1b[32m" if kind in ("peer:connect", "peer:identify", "peer:path", "nat:mapped") else "\x1b[33m"


def lagged_line(missed: int | None) -> str:
    """The line in place of missing events."""
    if missed is None:
        return "-- the daemon was restarted; its last events before that may be missing --"
    return f"-- {counted(missed, 'event')} missing: the daemon no longer holds them --"


def inline(value: Any) -> str:
    """Any JSON value in one line, without quotes where they are not needed."""
    if isinstance(value, list):
        return f"[{', '.join(inline(item) for item in value)}]"
    if isinstance(value, dict):
        return " ".join(f"{key}={inline(item)}" for key, item in value.items())
    text = clean(value)
    return f'"{text}"' if " " in text else text


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns under their heads, with cells made `clean`, at most as wide as the terminal (`fitting`)."""
    lines = fitting.fitted([tuple(head), *(tuple(clean(cell) for cell in row) for row in rows)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values; a list or an object takes a line for each element."""
    lines: list[tuple[str, str]] = []
    for name, value in rows:
        if isinstance(value, bool):
            value = "yes" if value else "no"
        if isinstance(value, dict):
            value = [f"{key}: {inline(item)}" for key, item in value.items()]
        values = value if isinstance(value, list) else [value]
        lines += [(name if index == 0 else "", clean(item)) for index, item in enumerate(values or ["-"])]
    lines = fitting.fitted_pairs(lines)
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in lines)


def as_text(result: Any) -> str:
    import msgspec

    # The encoder leaves control characters that a peer sent, and these must not reach the terminal.
    text = msgspec.json.format(msgspec.json.encode(result), indent=2).decode()
    return "\n".join(clean(line) for line in text.split("\n"))
