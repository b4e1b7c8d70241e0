"""Lines of the log: their keys, what keeps a stranger's text from steering them, repeats, levels."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstird.log import logger as log
from fabstird.log.lines import KEPT, LONGEST, QUIET, REPEATS, Memory, Repeats, SaidLately, harmless, indented

HOSTILE = "\x1b[2J\r\nfake\x00\x9b31m\u202e\u2028é"


def run(program: str, form: str, environ: Mapping[str, str] | None = None, stderr: Any = subprocess.PIPE) -> bytes:
    """What a process writes that logs as the daemon does."""
    start = (
        f"from fabstird.log import logger as log\nlog.configure('debug', {form!r})\nlogger = log.get_logger('test')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + program],
        stderr=stderr,
        check=True,
        timeout=60,
        env={**os.environ, **(environ or {})},
    )
    return done.stderr or b""


def entries(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.decode().splitlines()]


@given(st.text())
def test_harmless_text_steers_no_terminal(text: str) -> None:
    assert harmless(text).isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in indented(text).split("\n"))


def test_harmless_keeps_what_is_harmless() -> None:
    assert harmless({"é": ["a b", 1, None, True, 1.5]}) == {"é": ["a b", 1, None, True, 1.5]}
    assert harmless(("\n", b"\x00")) == ["\\n", "b'\\x00'"]


def test_json_has_stable_keys_first_and_one_line_an_entry() -> None:
    program = f"logger.info({HOSTILE!r}, agent={HOSTILE!r}, other=object)\n"
    program += "import logging; logging.getLogger('x').warning('of a library')\n"
    program += "try:\n    raise ValueError('a\\nb')\nexcept ValueError:\n    logger.exception('failed')\n"
    text = run(program, "json")
    assert text.isascii()
    assert not any(byte < 32 and byte != 10 for byte in text)
    lines = entries(text)
    assert [list(line)[:4] for line in lines] == [["time", "level", "event", "logger"]] * 3
    assert [line["logger"] for line in lines] == ["fabstird.test", "x", "fabstird.test"]
    assert lines[0]["agent"] == HOSTILE
    assert "ValueError: a\nb" in lines[2]["exception"]


def test_console_shows_nothing_that_steers_a_terminal() -> None:
    program = f"logger.info({HOSTILE!r}, agent={HOSTILE!r}, many=[{HOSTILE!r}])\n"
    program += f"try:\n    raise ValueError({HOSTILE!r})\nexcept ValueError:\n    logger.exception('failed')\n"
    text = run(program, "console").decode()
    assert all(line.isprintable() for line in text.split("\n"))
    first, second, *rest = text.splitlines()
    assert first.count("\\x1b[2J") == 3
    assert "failed" in second
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)


def test_lines_for_the_journal_say_their_level() -> None:
    program = "logger.debug('a'); logger.info('b'); logger.warning('c'); logger.error('d'); logger.critical('e')\n"
    with tempfile.TemporaryFile() as file:
        found = os.fstat(file.fileno())
        run(program, "json", {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, file)
        file.seek(0)
        assert file.read().startswith(b"{"), "a file is not the journal"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        run(program + "logger.info('one\\ntwo')", "json", stream, theirs)
        theirs.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: ours.recv(65536), b""))
    assert [line[:4] for line in text.splitlines()] == [b"<7>{", b"<6>{", b"<4>{", b"<3>{", b"<2>{", b"<6>{"]
    assert run(program, "json", {"JOURNAL_STREAM": "1:1"}).startswith(b"{")


def test_every_line_of_a_traceback_for_people_says_its_level() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        program = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logger.exception('failed')\n"
        run(program, "console", {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, theirs)
        theirs.shutdown(socket.SHUT_WR)
        text = b"".join(iter(lambda: ours.recv(65536), b""))
    assert text.count(b"\n") > 3
    assert all(line.startswith(b"<3>") for line in text.splitlines())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(level: int, event: str, **details: Any) -> logging.LogRecord:
    message = {"event": event, "time": "now", **details}
    return logging.LogRecord("fabstird.test", level, "file", 1, message, None, None)  # type: ignore[arg-type]


def test_a_repeating_error_is_written_once_a_minute_with_its_count() -> None:
    told: list[Any] = []
    clock = Clock()
    repeats = Repeats(lambda again: told.append(again.msg), clock)
    error = record(logging.ERROR, "no disk", file="x")
    assert [repeats.filter(error) for _ in range(4)] == [True, False, False, False]
    assert repeats.filter(record(logging.ERROR, "no disk", file="y")), "another file is another error"
    assert all(repeats.filter(record(logging.INFO, "hello")) for _ in range(3)), "what is no complaint is always told"
    assert all(repeats.filter(record(logging.WARNING, "task tree")) for _ in range(3)), "and so is what was asked for"
    clock.now = QUIET
    assert repeats.filter(record(logging.INFO, "anything"))
    assert told == [{"event": "no disk", "file": "x", "held_back": 3}]
    assert repeats.filter(error), "a new minute"


def test_a_defect_is_never_held_back() -> None:
    repeats = Repeats(lambda _: None, Clock())
    assert all(repeats.filter(record(logging.ERROR, "a method failed", log_id=str(n))) for n in range(3))


def test_the_watch_for_repeats_is_bounded_and_loses_no_count() -> None:
    told: list[Any] = []
    repeats = Repeats(lambda again: told.append(again.msg["held_back"]), Clock())
    for number in range(REPEATS + 2):
        assert repeats.filter(record(logging.ERROR, f"error {number}"))
        assert not repeats.filter(record(logging.ERROR, f"error {number}"))
    assert told == [1, 1]


def test_a_library_that_repeats_itself_is_held_back_too() -> None:
    told: list[str] = []
    clock = Clock()
    repeats = Repeats(lambda again: told.append(again.getMessage()), clock)
    line = logging.LogRecord("library", logging.ERROR, "file", 1, "no %s", ("disk",), None)
    assert [repeats.filter(line) for _ in range(3)] == [True, False, False]
    clock.now = QUIET
    repeats.filter(record(logging.INFO, "anything"))
    assert told == ["no disk (held back 2 times)"]


def test_the_newest_lines_are_kept_and_long_ones_are_cut() -> None:
    memory = Memory()
    for number in range(KEPT + 5):
        memory.add("info", str(number), {})
    assert (len(memory), memory.lines()[0], memory.counts["info"]) == (KEPT, "5", KEPT + 5)
    memory.add("error", json.dumps({"event": "x" * 100_000}), {"event": "failed", "level": "error"})
    cut = memory.lines()[-1]
    assert len(cut) <= LONGEST
    assert json.loads(cut)["event"] == "failed"


def test_single_loggers_can_be_turned_up() -> None:
    log.configure("warning", "json")
    one, other = log.get_logger("log-test.one"), log.get_logger("log-other")
    log.set_level("debug", "log-test")
    assert log.levels() == ("warning", {"fabstird.log-test": "debug"})
    before = len(log.memory.lines())
    one.debug("shown")
    other.info("not shown")
    assert [json.loads(line)["event"] for line in log.memory.lines()[before:]] == ["shown"]
    log.set_level("error")
    assert log.levels() == ("error", {"fabstird.log-test": "debug"})
    log.set_level("inherit", "fabstird.log-test")
    assert log.levels() == ("error", {})


@pytest.mark.parametrize("name", ["no.such", "hypercorn.access", "root", "", "fabstird.", "../x"])
def test_an_unknown_logger_is_refused_and_not_made(name: str) -> None:
    known = set(logging.root.manager.loggerDict)
    with pytest.raises(log.UnknownLogger, match=r"known are .*libp2p"):
        log.set_level("debug", name)
    assert set(logging.root.manager.loggerDict) == known


def test_a_library_can_be_turned_up_and_stays_so() -> None:
    log.configure("info", "json")
    log.set_level("debug", "libp2p")
    log.adopt_libraries()  # as after its import
    assert logging.getLogger("libp2p").getEffectiveLevel() == logging.DEBUG
    log.set_level("inherit", "libp2p")
    assert logging.getLogger("libp2p").getEffectiveLevel() == logging.CRITICAL


def test_a_reader_who_stops_reading_delays_nobody_and_is_told_what_was_dropped() -> None:
    reading, writing = os.pipe()
    program = """
import sys, time
longest = 0.0
for number in range(12000):  # three times what the pipe and the queue hold together
    began = time.perf_counter()
    logger.info('a line', number=number, filling='x' * 200)
    longest = max(longest, time.perf_counter() - began)
print(longest, log.dropped(), flush=True)
sys.stdin.read()
log.finish()
"""
    start = "from fabstird.log import logger as log\nlog.configure('debug', 'json')\nlogger = log.get_logger('test')\n"
    process = subprocess.Popen(
        [sys.executable, "-c", start + program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing
    )
    os.close(writing)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        longest, lost = process.stdout.readline().split()  # all of it was logged, and not a byte was read
        assert float(longest) < 5.0
        assert int(lost) > 5000
        process.stdin.close()
        with os.fdopen(reading, "rb") as pipe:
            lines = entries(pipe.read())
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    dropped = int(lost)
    numbers = [line["number"] for line in lines if "number" in line]
    assert numbers == list(range(12000 - dropped)), "what was not dropped comes whole and in order"
    assert f"{dropped} lines of the log were dropped" in lines[-1]["event"]


def test_a_process_ends_while_nobody_reads_its_log() -> None:
    reading, writing = os.pipe()
    program = "from fabstird.log import logger as log\nlog.configure('info', 'json')\n"
    program += "for _ in range(5000): log.get_logger('test').info('x' * 200)\n"
    try:
        process = subprocess.Popen([sys.executable, "-c", program], stderr=writing)
        assert process.wait(60) == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_what_was_said_lately_is_not_said_again_and_the_oldest_is_forgotten() -> None:
    said = SaidLately(2)
    assert said.take("a", 0.0)
    assert said.take("b", 1.0)
    assert not said.take("a", QUIET - 1)
    assert said.take("a", QUIET), "a minute is over"
    assert said.take("c", QUIET), "there is room for two: b was said longest ago"
    assert not said.take("a", QUIET + 1)
    assert said.take("b", QUIET + 1)
