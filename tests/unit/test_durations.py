"""No duration is the difference of two instants: by the time it is worked out, the later one may have passed.

`trio.move_on_after`, `trio.sleep`, `time.sleep` and `settimeout` raise ValueError for a negative duration, which on a
busy machine is only a matter of time. Due times have no such edge: `move_on_at`, `fail_at`, `sleep_until`, a
`CancelScope` with a deadline; for blocking calls `fabstir_client.sync_link.remaining`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fabstir_client
import fabstird

TAKE_SECONDS = ("sleep", "settimeout")  # and whatever ends in `_after`
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[Path]:
    for package in (fabstird, fabstir_client):
        yield from Path(package.__file__ or "").parent.rglob("*.py")


def differences(source: str) -> list[int]:
    """Lines on which a duration is passed that is, or was just made from, a difference."""
    tree = ast.parse(source)
    found: set[int] = set()
    for function in (node for node in ast.walk(tree) if isinstance(node, Function)):
        made = _made_from_differences(function)
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            if (name in TAKE_SECONDS or name.endswith("_after")) and any(_is_difference(one, made) for one in given):
                found.add(call.lineno)
    return sorted(found)


def _made_from_differences(function: Function) -> set[str]:
    """Names in a function that stand for a difference, by way of any number of assignments."""
    made: set[str] = set()
    while True:
        known = len(made)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if _is_difference(node.value, made):
                    made.update(one.id for one in targets if isinstance(one, ast.Name))
        if len(made) == known:
            return made


def _is_difference(expression: ast.expr, made: set[str]) -> bool:
    return any(
        (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub))
        or (isinstance(node, ast.Name) and node.id in made)
        for node in ast.walk(expression)
    )


def test_no_duration_is_a_difference() -> None:
    found = [f"{path}:{line}" for path in sources() for line in differences(path.read_text())]
    assert found == [], "\n".join(["durations from two clock readings; use a due time instead", *found])


@pytest.mark.parametrize(
    "line",
    [
        "trio.move_on_after(due - clock())",
        "anyio.fail_after(delay=max(0.001, due - clock()))",
        "left = due - clock(); time.sleep(left)",
        "left = due - clock(); less = min(1, left); sock.settimeout(less)",
        "trio.sleep(least if (left := due - clock()) < 0 else left)",
    ],
)
def test_a_difference_is_found(line: str) -> None:
    assert differences(f"def run():\n    {line}\n") == [2]


@pytest.mark.parametrize("line", ["trio.move_on_at(due)", "trio.sleep(PAUSE / 2)", "took = end - begun; print(took)"])
def test_a_due_time_is_not(line: str) -> None:
    assert differences(f"def run():\n    {line}\n") == []
