"""`make test` runs those side by side that may be, then those that must be alone; a failure in either part fails it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOGETHER = "def test_together(): assert __import__('os').environ.get('PYTEST_XDIST_WORKER')\n"
ALONE = "import os, pytest\n@pytest.mark.alone\ndef test_alone(): assert 'PYTEST_XDIST_WORKER' not in os.environ\n"
LEFT = "from tests.conftest import leave_out\ndef test_left(pytestconfig): leave_out(pytestconfig, 'moon', 'no sky')\n"
SERVICE = "import os\ndef test_it(): open({0!r}, 'a').write(os.environ['PYTEST_XDIST_WORKER'] + '\\n')\n"
NONE = 5  # pytest's status where no test was selected


@pytest.mark.parametrize(
    ("together", "alone", "status"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 1),
        (1, 2, 1),
        (0, NONE, 0),
        (NONE, 0, 0),
        (NONE, 1, 1),
        (2, NONE, 2),
        (NONE, NONE, NONE),
    ],
)
def test_both_parts_run_and_either_fails_it(together: int, alone: int, status: int, tmp_path: Path) -> None:
    """With a program in pytest's place that ends as it is told to."""
    program = tmp_path / "pytest"
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/ran\nenv >{tmp_path}/environment\n'
        f'[ "$1" = --part=together ] && exit {together}\nexit {alone}\n'
    )
    program.chmod(0o755)
    environment = {**os.environ, "PYTEST": str(program), "WORKERS": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([ROOT / "scripts" / "test", "-k", "a b"], env=environment, capture_output=True, check=False)
    assert done.returncode == status
    assert (tmp_path / "ran").read_text().splitlines() == [
        "--part=together -n 2 --dist=loadfile --no-loadscope-reorder -k a b",
        "--part=alone -k a b -n 0",
    ]
    assert "PYTHONDONTWRITEBYTECODE" not in (tmp_path / "environment").read_text(), "each daemon would compile itself"


def test_each_test_runs_once_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    ran_by = tmp_path / "ran_by"
    service = {f"tests/service/test_{name}": SERVICE.format(str(ran_by)) for name in ("one", "two", "three")}
    (tmp_path / "tests" / "service").mkdir(parents=True)
    for name, text in {"test_together": TOGETHER, "test_alone": ALONE, "test_left": LEFT, **service}.items():
        (tmp_path / f"{name}.py").write_text(text)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of a worker's
    environment = {**clean, "PYTEST": str(Path(sys.executable).with_name("pytest")), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [ROOT / "scripts" / "test", "-v", "-p", "tests.conftest", "-c", tmp_path / "pytest.ini", tmp_path],
        cwd=tmp_path,
        env={**environment, "WORKERS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("4 passed") == 1
    assert done.stdout.count("1 passed") == 1
    assert len(set(ran_by.read_text().split())) == 1, "the machine under systemd is made once"
    assert done.stdout.count("TESTS LEFT OUT") == 1
    assert "moon: no sky" in done.stdout
    assert "FABSTIR_REQUIRE=moon makes this a failure." in done.stdout
