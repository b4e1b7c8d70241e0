"""config.example.toml is the defaults, whole and explained."""

import re
from pathlib import Path

from fabstird import config

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def test_it_is_what_check_config_prints_where_nothing_is_set() -> None:
    assert EXAMPLE.read_text() == config.render(config.Config()), "fabstird/config/example.toml has changed: make docs"


def test_it_is_valid_and_sets_exactly_the_defaults() -> None:
    assert config.load(EXAMPLE, {}) == config.Config()


def test_every_key_is_there_and_explained() -> None:
    text = EXAMPLE.read_text()
    for section, keys in config.Config().to_dict().items():
        body = text.partition(f"[{section}]")[2].partition("\n[")[0]
        for key in keys:
            assert re.search(rf"^{key} = ", body, re.MULTILINE), f"[{section}] {key} is missing"
        explained = [paragraph for paragraph in re.split(r"\n\n+", body) if " = " in paragraph]
        assert all("# " in paragraph for paragraph in explained), f"a key of [{section}] stands without a word"
