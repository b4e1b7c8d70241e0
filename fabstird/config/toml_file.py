"""Writes a configuration as a commented file to start from: example.toml with the values in effect."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

from fabstird.config.keys import Config

EXAMPLE = "example.toml"


def render(config: Config) -> str:
    """The text of the file. `load` reads an equal configuration from it."""
    values = config.to_dict()
    section, lines = "", []
    for line in files(__package__).joinpath(EXAMPLE).read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.match(r"(\w+) = ", line):
            line = f"{key[1]} = {_toml(values[section][key[1]])}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML. The checks allow only numbers, booleans, printable text and arrays of text, which JSON writes
    the same way."""
    return json.dumps(value, ensure_ascii=False)
