"""Configuration as a user gives it: of a file, or of words that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabstird.config import Config, ConfigError, load


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def of_file(tmp_path: Path, text: str) -> Config:
    return load(written(tmp_path, text), {})


def mistakes(*overrides: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(None, environ, overrides)
    assert str(raised.value) == "\n".join(raised.value.mistakes)
    return raised.value.mistakes
