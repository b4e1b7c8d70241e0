"""Reads the configuration from its sources, and names the source of each wrong value.

Later sources override earlier ones: defaults, file, ``FABSTIRD_<SECTION>__<KEY>`` variables, ``--set``. All mistakes in
all sources are reported together, and a configuration with mistakes is not applied.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabstird.config.keys import CHECKS, SECTIONS, Config, ConnectionsConfig, NodeConfig

DEFAULT_FILE = Path("/etc/fabstird/config.toml")
MOST_BYTES = 1024 * 1024  # of a configuration file


class ConfigError(Exception):
    """One or more mistakes. ``mistakes`` has one line for each, naming the source, the key and what would be right."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = [_one_line(mistake) for mistake in mistakes]
        super().__init__("\n".join(self.mistakes))


def _one_line(text: str) -> str:
    """A value for use in a line of output, without newlines and control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


@dataclass(frozen=True, slots=True)
class _Setting:
    source: str
    section: str
    key: str
    value: Any


def load(
    file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Iterable[str] = (),
) -> Config:
    """The effective configuration.

    Args:
        file: The value of ``--config``.
        environ: The environment.
        overrides: The values of ``--set``.

    Raises:
        ConfigError: With every mistake of every source.
    """
    mistakes: list[str] = []
    settings = _from_file(_find_file(file, environ), mistakes)
    settings += _from_environment(environ, mistakes)
    settings += _from_options(overrides, mistakes)

    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[tuple[str, str], str] = {}
    for setting in settings:
        where = f"{setting.source}: {setting.section}.{setting.key}"
        try:
            values[setting.section][setting.key] = CHECKS[setting.section][setting.key](setting.value)
            sources[setting.section, setting.key] = setting.source
        except ValueError as error:
            mistakes += [f"{where}: {line}" for line in error.args]
    _follow_lower_limits(values["connections"])
    config = Config(**{section: cls(**values[section]) for section, cls in SECTIONS.items()})
    if not mistakes:
        mistakes = _contradictions(config, sources)
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _follow_lower_limits(connections: dict[str, Any]) -> None:
    """Lower watermarks that nobody set below a lower limit, so that ``max = 20`` alone is a complete configuration."""
    defaults = ConnectionsConfig()
    for lower, upper in (("high_water", "max"), ("low_water", "high_water")):
        ceiling = connections.get(upper, getattr(defaults, upper))
        if lower not in connections and getattr(defaults, lower) > ceiling:
            connections[lower] = ceiling


def _contradictions(config: Config, sources: Mapping[tuple[str, str], str]) -> list[str]:
    connections, wrong = config.connections, []
    for lower, upper in (("low_water", "high_water"), ("high_water", "max")):
        low, high = getattr(connections, lower), getattr(connections, upper)
        if low > high:
            source = sources.get(("connections", lower)) or sources.get(("connections", upper)) or "defaults"
            wrong.append(f"{source}: connections.{lower}: must not exceed connections.{upper} ({high}), but is {low}")
    return wrong


def override_node(node: NodeConfig, overrides: Mapping[str, Any]) -> NodeConfig:
    """``node`` with the camelCase keys of ``start(config)`` applied; null leaves a key as it is.

    Raises `ConfigError`, one line for each mistake.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for name, value in overrides.items():
        key = _OVERRIDES.get(name)
        if key is None:
            mistakes.append(f"config.{name}: unknown key; known are {', '.join(_OVERRIDES)}")
        elif value is not None:
            try:
                values[key] = CHECKS["node"][key](value)
            except ValueError as error:
                mistakes += [f"config.{name}: {line}" for line in error.args]
    if mistakes:
        raise ConfigError(mistakes)
    return dataclasses.replace(node, **values)


_OVERRIDES = {
    "bootstrapNodes": "bootstrap_nodes",
    "listenAddresses": "listen_addresses",
    "enableDHT": "enable_dht",
    "enableMDNS": "enable_mdns",
    "dialTimeout": "dial_timeout",
    "requestTimeout": "request_timeout",
    "maxRetries": "max_retries",
    "retryDelay": "retry_delay",
}


def home(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The user's home directory; None where neither HOME nor the user database names one."""
    import pwd  # HOME is nearly always set

    if environ.get("HOME", "").startswith("/"):
        return Path(environ["HOME"])
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None


def _find_file(file: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    """The first of ``--config``, ``$FABSTIRD_CONFIG``, the user's file and the system's that is named or exists."""
    if file is not None:
        return Path(file)
    if environ.get("FABSTIRD_CONFIG"):
        return Path(environ["FABSTIRD_CONFIG"])
    own = environ.get("XDG_CONFIG_HOME", "")
    folder = Path(own) if own.startswith("/") else (found / ".config" if (found := home(environ)) else None)
    places = [*([folder / "fabstird" / "config.toml"] if folder is not None else []), DEFAULT_FILE]
    return next((place for place in places if _there(place)), None)


def _there(path: Path) -> bool:
    """Whether a file exists. One that may not be looked at counts as existing: it then fails to be read, where ignoring
    it would be a guess."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _from_file(path: Path | None, mistakes: list[str]) -> list[_Setting]:
    tables = {} if path is None else _tables(path, mistakes)
    settings = []
    for section, table in tables.items():
        if not isinstance(table, dict):
            known = section in SECTIONS
            mistakes.append(f"{path}: {section}: {f'must be a table: [{section}]' if known else _unknown(section)}")
        elif section not in SECTIONS and not table:
            mistakes.append(f"{path}: [{section}]: {_unknown(section)}")
        for key, value in table.items() if isinstance(table, dict) else ():
            if _known(section, key):
                settings.append(_Setting(str(path), section, key, value))
            else:
                mistakes.append(f"{path}: {section}.{key}: {_unknown(section, key)}")
    return settings


def _tables(path: Path, mistakes: list[str]) -> dict[str, Any]:
    """Parse the file as TOML. Any failure adds one line to ``mistakes``."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        mistakes.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    if len(content) > MOST_BYTES:
        mistakes.append(f"{path}: is larger than {MOST_BYTES} bytes, which no configuration is")
        return {}
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows begin files with a byte order mark
    except UnicodeDecodeError as error:
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        hint = "; it is UTF-16: save it as UTF-8" if wide else ""
        mistakes.append(f"{path}: is not UTF-8 text (byte {error.start}){hint}")
    except RecursionError:
        mistakes.append(f"{path}: is not TOML: nested too deeply")
    except ValueError as error:  # TOMLDecodeError is one; an integer of 5,000 digits raises another
        mistakes.append(f"{path}: is not TOML: {error}")
    return {}


def _from_environment(environ: Mapping[str, str], mistakes: list[str]) -> list[_Setting]:
    settings = []
    for name in sorted(environ):
        match = re.fullmatch(r"FABSTIRD_([A-Z0-9]+)__([A-Z0-9_]+)", name)
        section, key = (match[1].lower(), match[2].lower()) if match is not None else ("", "")
        if _known(section, key):
            settings.append(_Setting(f"environment variable {name}", section, key, _toml_value(environ[name])))
        elif match is not None:
            mistakes.append(f"environment variable {name}: {section}.{key}: {_unknown(section, key)}")
        elif _is_meant(name):
            mistakes.append(f"environment variable {name}: is not known{_nearest_variable(name)}")
    return settings


# Kubernetes sets these in every container beside a service named fabstird
_OF_KUBERNETES = re.compile(r"FABSTIRD_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_[A-Z]+)?)?)")
_OTHERS = ("FABSTIRD_CONFIG",)


def _is_meant(name: str) -> bool:
    """Whether whoever set this variable probably meant the daemon's configuration."""
    if name in _OTHERS or _OF_KUBERNETES.fullmatch(name):
        return False
    return re.match(r"FABSTIRD[_.-]|FABSTIRD?_+[A-Z0-9]+__", name, re.IGNORECASE) is not None


def _nearest_variable(name: str) -> str:
    variables = [f"FABSTIRD_{section}__{key}".upper() for section, keys in CHECKS.items() for key in keys]
    bare = {re.sub("[^A-Z0-9]", "", one): one for one in (*variables, *_OTHERS)}
    wanted = re.sub("[^A-Z0-9]", "", name.upper())
    return _nearest(wanted, list(bare), lambda one: bare[one]) or "; those are FABSTIRD_<SECTION>__<KEY>"


def _nearest(name: str, known: Sequence[str], shown: Callable[[str], str] = str) -> str:
    """``; did you mean …?``, or nothing where no name is similar."""
    from difflib import get_close_matches  # needed only for a mistake

    found = get_close_matches(name, known, 1)
    return f"; did you mean {shown(found[0])}?" if found else ""


def _from_options(overrides: Iterable[str], mistakes: list[str]) -> list[_Setting]:
    settings = []
    for text in overrides:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            mistakes.append(f"--set {text}: must be section.key=value, such as --set node.auto_start=false")
        elif _known(section, key):
            settings.append(_Setting("--set", section, key, _toml_value(value)))
        else:
            mistakes.append(f"--set: {section}.{key}: {_unknown(section, key)}")
    return settings


def _known(section: str, key: str) -> bool:
    return key in CHECKS.get(section, ())


def _unknown(section: str, key: str = "") -> str:
    if section in CHECKS:
        return f"unknown key; [{section}] knows {', '.join(CHECKS[section])}{_nearest(key, list(CHECKS[section]))}"
    known = ", ".join(f"[{name}]" for name in CHECKS)
    return f"unknown section; known are {known}{_nearest(section, list(CHECKS))}"


def _toml_value(text: str) -> Any:
    """The value parsed as TOML if possible, otherwise as a bare string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text
