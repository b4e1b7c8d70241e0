"""scripts/look-again, on small suites of its own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "look-again"
ONCE = """
from pathlib import Path

def test_once():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("the first time only")
"""
PASSING = "def test_passes(): pass\n"


def failing(number: int) -> str:
    return "\n".join(f"def test_{each}(): assert False" for each in range(number))


def looked(folder: Path, *suite: str) -> tuple[int, str]:
    """What look-again says after a first run of such files."""
    for number, text in enumerate(suite):
        (folder / f"test_{number}.py").write_text(text)
    pytest = Path(sys.executable).with_name("pytest")
    (folder / "pytest.ini").write_text("[pytest]\n")
    if suite:
        subprocess.run([pytest, "-q"], cwd=folder, capture_output=True, check=False, timeout=120)
    done = subprocess.run(
        [sys.executable, SCRIPT],
        cwd=folder,
        env={"PYTEST": str(pytest), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_what_failed_once_is_named_and_holds_nothing_up(tmp_path: Path) -> None:
    status, said = looked(tmp_path, ONCE, PASSING)
    assert status == 0
    assert "UNSTEADY test_0.py::test_once" in said
    assert "test_passes" not in said


def test_what_fails_again_fails(tmp_path: Path) -> None:
    status, said = looked(tmp_path, ONCE, failing(1))
    assert (status, "UNSTEADY" in said) == (1, False)


def test_many_at_once_are_no_chance(tmp_path: Path) -> None:
    status, said = looked(tmp_path, failing(4))
    assert status == 1
    assert "4 tests failed" in said


def test_a_failure_that_is_no_test_fails(tmp_path: Path) -> None:
    """Such as lint's: nothing is recorded."""
    assert looked(tmp_path)[0] == 1
    assert looked(tmp_path, PASSING)[0] == 1


def test_a_file_that_cannot_be_read_fails(tmp_path: Path) -> None:
    assert looked(tmp_path, "import no_such_module")[0] == 1
