"""`fabstird` with the methods that the examples of the JSON-RPC 2.0 specification call, beside its own."""

from __future__ import annotations

import sys
from typing import Any

from fabstir_client.api.types import NoParams, Params
from fabstird.cli import main
from fabstird.rpc.dispatch import Call, Method
from fabstird.rpc.methods import table as methods


class Subtract(Params, frozen=True):
    minuend: int
    subtrahend: int


class Numbers(Params, frozen=True):
    a: int
    b: int | None = None
    c: int | None = None
    d: int | None = None
    e: int | None = None


def subtract(_: Call, params: Subtract) -> int:
    return params.minuend - params.subtrahend


async def total(_: Call, params: Numbers) -> int:
    return sum(number or 0 for number in (params.a, params.b, params.c, params.d, params.e))


def get_data(_: Call, __: NoParams) -> list[Any]:
    return ["hello", 5]


methods.METHODS += [
    Method("subtract", Subtract, int, "", subtract),
    Method("get_data", NoParams, list[Any], "", get_data),
    *(Method(name, Numbers, int, "", total) for name in ("sum", "update", "notify_sum", "notify_hello")),
]

if __name__ == "__main__":
    sys.exit(main())
