"""Parameters as they were given, by position or by name, to the struct of the method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from fabstir_client.errors import InvalidParams
from fabstir_client.types import Params
from fabstird.rpc.calls import Method


@dataclass(frozen=True, slots=True)
class Signature:
    """Names of parameters as they are on the wire, in their order: all, and those that may not be left out."""

    known: tuple[str, ...]
    required: tuple[str, ...]


@cache
def signature(params: type[Params]) -> Signature:
    """What a struct of parameters takes; worked out once for each."""
    fields = msgspec.structs.fields(params)
    return Signature(tuple(one.encode_name for one in fields), tuple(one.encode_name for one in fields if one.required))


def convert(method: Method, positional: tuple[Any, ...] | list[Any], named: dict[str, Any]) -> Params:
    """Parameters by position or by name to the method's struct. Raises `InvalidParams` that names the parameter."""
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
            raise InvalidParams(f'Invalid params: unknown parameter "{name}"; {takes}', param=name)
    for name in required:
        if given.get(name) is None:
            raise InvalidParams(f'Invalid params: "{name}" is missing; {takes}', param=name)
    try:
        # null stands for "not given" where a parameter may be left out
        return msgspec.convert({name: value for name, value in given.items() if value is not None}, method.params)
    except msgspec.ValidationError as error:
        # Expected `int`, got `str` - at `$.timeout`
        what, _, where = str(error).partition(" - at `$.")
        name = where.removesuffix("`")
        raise InvalidParams(f"Invalid params: {name}: {what[0].lower()}{what[1:]}", param=name) from error
