"""Where configuration comes from: a file, the environment, ``--set``; and ``fabstird check-config``, which shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabstird.config import Config, ConfigError, load
from tests.unit.configuring import mistakes, of_file, written

pytestmark = pytest.mark.usefixtures("no_system_file")


def test_later_sources_go_over_earlier_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = 1\nretry_delay = 1\ndial_timeout = 1\n")
    environ = {"FABSTIRD_NODE__RETRY_DELAY": "2", "FABSTIRD_NODE__DIAL_TIMEOUT": "2"}
    found = load(path, environ, ["node.dial_timeout=3", "node.dial_timeout=4"]).node
    assert (found.max_retries, found.retry_delay, found.dial_timeout, found.request_timeout) == (1, 2, 4, 60000)


def test_which_file_is_read(tmp_path: Path, no_system_file: Path) -> None:
    named, variable = tmp_path / "named.toml", tmp_path / "variable.toml"
    for number, path in enumerate((no_system_file, variable, named), 1):
        path.write_text(f"[node]\nmax_retries = {number}\n")
    environ = {"FABSTIRD_CONFIG": str(variable)}
    assert load(named, environ).node.max_retries == 3
    assert load(None, environ).node.max_retries == 2
    assert load(None, {"FABSTIRD_CONFIG": ""}).node.max_retries == 1
    no_system_file.unlink()
    assert load(None, {}).node.max_retries == Config().node.max_retries


def test_a_set_value_is_toml_where_it_parses_and_else_a_bare_string() -> None:
    def level(text: str) -> str:
        return load(None, {}, [f"log.level={text}"]).log.level

    assert level("debug") == level('"debug"') == level("'debug'") == "debug"
    assert load(None, {}, ["node.auto_start=false"]).node.auto_start is False
    assert load(None, {}, ["api.allowed_hosts=['a', \"b\"]"]).api.allowed_hosts == ("a", "b")
    assert load(None, {}, ["api.http="]).api.http == load(None, {}, ['api.http=""']).api.http == ""
    assert load(None, {}, ["api.ipc=/a=b.sock"]).api.ipc == "/a=b.sock"
    assert load(None, {}, ["api.http=[::1]:80"]).api.http == "[::1]:80"
    assert load(None, {}, [" node.max_retries=0x10"]).node.max_retries == 16
    assert mistakes("log.level=info\nother = 1")[0].startswith("--set: log.level: must be one of")


def test_variables_of_the_environment_are_read_the_same_way() -> None:
    found = load(
        None,
        {
            "FABSTIRD_NODE__AUTO_START": "false",
            "FABSTIRD_LOG__LEVEL": "debug",
            "FABSTIRD_API__ALLOWED_HOSTS": '["x"]',
            "FABSTIRD_CONFIG": "",
            "FABSTIR_API": "ipc:/elsewhere",
            "PATH": "/bin",
        },
    )
    assert (found.node.auto_start, found.log.level, found.api.allowed_hosts) == (False, "debug", ("x",))


@pytest.mark.parametrize(
    ("overrides", "environ", "line"),
    [
        (["node"], {}, "--set node: must be section.key=value, such as --set node.auto_start=false"),
        (["auto_start=true"], {}, "--set auto_start=true: must be section.key=value"),
        (["node.x=1"], {}, "--set: node.x: unknown key; [node] knows auto_start, listen_addresses, "),
        (["nodes.max_retries=1"], {}, "--set: nodes.max_retries: unknown section; known are [node], [connections], "),
        (["NODE.max_retries=1"], {}, "--set: NODE.max_retries: unknown section"),
        (["log.level=loud"], {}, '--set: log.level: must be one of debug, info, warning, error, not "loud"'),
        ([], {"FABSTIRD_NODE__X": "1"}, "environment variable FABSTIRD_NODE__X: node.x: unknown key; [node] knows "),
        ([], {"FABSTIRD_X__Y": "1"}, "environment variable FABSTIRD_X__Y: x.y: unknown section; known are [node]"),
        ([], {"FABSTIRD_LOG__LEVEL": "loud"}, "environment variable FABSTIRD_LOG__LEVEL: log.level: must be one of"),
    ],
)
def test_mistakes_outside_the_file(overrides: list[str], environ: dict[str, str], line: str) -> None:
    (found,) = mistakes(*overrides, **environ)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[node\n", "is not TOML: "),
        ("[node]\nauto_start = true\nauto_start = true\n", "is not TOML: "),
        ("max_retries = 3\n", "max_retries: unknown section; known are [node], "),
        ("[server]\nport = 1\n", "server.port: unknown section; known are [node], "),
        ("[server]\n", "[server]: unknown section; known are [node], "),
        ("node = 3\n", "node: must be a table: [node]"),
        ("[[node]]\n", "node: must be a table: [node]"),
        ("[log]\nlevle = 'info'\n", "log.levle: unknown key; [log] knows level, format"),
        (f"[node]\nmax_retries = {'9' * 5000}\n", "is not TOML: "),
    ],
)
def test_mistakes_of_the_files_shape(tmp_path: Path, text: str, line: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(path, {})
    (found,) = raised.value.mistakes
    assert found.startswith(f"{path}: {line}")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "missing.toml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=f"^{path}: {why}$"):
            load(path, {})
        with pytest.raises(ConfigError, match=f"^{path}: {why}$"):
            load(None, {"FABSTIRD_CONFIG": str(path)})
    (tmp_path / "latin.toml").write_bytes("# ä\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.toml: is not UTF-8 text \(byte 2\)$"):
        load(tmp_path / "latin.toml", {})


def test_all_mistakes_of_all_sources_are_told_together(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nauto_start = 1\nretry_delay = -1\n[x]\ny = 1\n")
    with pytest.raises(ConfigError) as raised:
        load(path, {"FABSTIRD_LOG__LEVEL": "loud", "FABSTIRD_API__Z": ""}, ["node.dial_timeout=0", "nonsense"])
    # Even one that a later source would have covered
    assert sorted(
        line.split(": ")[0].split(" ")[-1] + " " + line.split(": ")[1] for line in raised.value.mistakes
    ) == sorted(
        [
            f"{path} node.auto_start",
            f"{path} node.retry_delay",
            f"{path} x.y",
            "FABSTIRD_LOG__LEVEL log.level",
            "FABSTIRD_API__Z api.z",
            "--set node.dial_timeout",
            "nonsense must be section.key=value, such as --set node.auto_start=false",
        ]
    )


@pytest.mark.parametrize("text", ['[log]\nlevel = "a\\nb\\u001b[2J"\n', '[log]\n"a\\nb\\u001b[2J" = 1\n'])
def test_a_mistake_is_one_line_whatever_the_value_holds(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        of_file(tmp_path, text)
    (line,) = raised.value.mistakes
    assert line.isprintable()
    assert "a\\nb\\x1b[2J" in line


# --------------------------------------------------------------------------------------------------------------------
# check-config


def check_config(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FABSTIR")}
    command = [sys.executable, "-m", "fabstird", "check-config", *arguments]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=60, check=False)


def test_check_config_prints_what_is_in_effect(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = 5\n")
    done = check_config(str(path), "--set", "log.level=debug", FABSTIRD_NODE__AUTO_START="false")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = load(path, {"FABSTIRD_NODE__AUTO_START": "false"}, ["log.level=debug"])
    assert json.loads(done.stdout) == wanted.to_dict()


def test_check_config_reads_the_file_that_run_would_read(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = 5\n")
    done = check_config(FABSTIRD_CONFIG=str(path))
    assert json.loads(done.stdout)["node"]["max_retries"] == 5


def test_check_config_tells_one_line_a_mistake_and_exits_with_2(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = -1\nretry_delay = -1\n")
    done = check_config(str(path), FABSTIRD_LOG__LEVEL="loud")
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": must")[0] for line in done.stderr.splitlines()] == [
        f"fabstird: {path}: node.max_retries",
        f"fabstird: {path}: node.retry_delay",
        "fabstird: environment variable FABSTIRD_LOG__LEVEL: log.level",
    ]


def test_check_config_takes_the_file_as_run_does(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = 5\n")
    assert json.loads(check_config("--config", str(path)).stdout)["node"]["max_retries"] == 5
    twice = check_config("--config", str(path), str(path))
    assert (twice.returncode, twice.stdout) == (2, "")
    absent = check_config("--config", str(tmp_path / "none.toml"))
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr == f"fabstird: {tmp_path / 'none.toml'}: cannot be read: No such file or directory\n"


def test_check_config_writes_a_file_to_start_from(tmp_path: Path) -> None:
    path = written(tmp_path, "[node]\nmax_retries = 5\n[tunnels]\nallow = ['10.0.0.5:22']\n")
    strange = '/x "y" \\ \u00e9\u4f8b'
    done = check_config(
        "--toml", str(path), "--set", f"api.ipc={strange}", "--set", "node.enable_dht=false", LC_ALL="C"
    )
    assert (done.returncode, done.stderr) == (0, "")
    wanted = load(path, {}, [f"api.ipc={strange}", "node.enable_dht=false"])
    assert wanted.api.ipc == strange
    again = tmp_path / "again.toml"
    again.write_text(done.stdout)
    assert load(again, {}) == wanted
    assert done.stdout.count("\n# ") > 100, "every key is explained"
