"""Converts parameters, given by position or by name, to the method's struct."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from fabstir_client.api.errors import InvalidParams
from fabstir_client.api.types import Params
from fabstird.config import LARGEST
from fabstird.rpc.calls import Method, cut

MAX_TEXT = 4096  # characters of a text in a parameter that is not a payload: names, ids, addresses


@dataclass(frozen=True, slots=True)
class Signature:
    """The names of parameters on the wire, in order: all of them, and the required ones."""

    known: tuple[str, ...]
    required: tuple[str, ...]


@cache
def signature(params: type[Params]) -> Signature:
    """The parameters of a struct, computed once."""
    fields = msgspec.structs.fields(params)
    return Signature(tuple(one.encode_name for one in fields), tuple(one.encode_name for one in fields if one.required))


def convert(method: Method, positional: tuple[Any, ...] | list[Any], named: dict[str, Any]) -> Params:
    """Convert parameters to the method's struct. Raises `InvalidParams`, which names the parameter."""
    declared = signature(method.params)
    known, required = declared.known, declared.required
    if not positional and not named and not required:
        return method.params()
    takes = f"{method.name} takes {', '.join(known) or 'none'}"
    if len(positional) > len(known):
        raise InvalidParams(f"Invalid params: {len(positional)} given, but {takes}")
    given = dict(zip(known, positional, strict=False)) or named
    for name in given:
        if name not in known:
            raise InvalidParams(f'Invalid params: unknown parameter "{cut(name)}"; {takes}', param=cut(name))
    for name, value in given.items():
        if words := _beyond(value, math.inf if name in method.params.PAYLOADS else MAX_TEXT):
            raise InvalidParams(f"Invalid params: {name}: {words}", param=name)
    for name in required:
        if given.get(name) is None:
            raise InvalidParams(f'Invalid params: "{name}" is missing; {takes}', param=name)
    try:
        # null means "not given" for an optional parameter
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, method.params)
    except msgspec.ValidationError as error:
        # Expected `int`, got `str` - at `$.timeout`
        what, _, where = str(error).partition(" - at `$.")
        name = where.removesuffix("`")
        raise InvalidParams(f"Invalid params: {name}: {cut(what[0].lower() + what[1:])}", param=name) from error


def _beyond(value: Any, most: float) -> str:
    """What is wrong with a value that has an integer beyond what other parsers, calendars and clocks hold, or a text
    longer than ``most`` characters, which would be stored and repeated for ever; empty where nothing is."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is int:
            if not -LARGEST <= one <= LARGEST:
                return f"holds a number beyond {LARGEST}, the largest that every JSON parser keeps as it is"
        elif kind is str:
            if len(one) > most:
                return f"holds a text of {len(one)} characters; {most} are taken"
        elif kind is dict:
            waiting.extend(one.values())
            waiting.extend(one)
        elif kind is list:
            waiting.extend(one)
    return ""
