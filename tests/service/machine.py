"""A machine for the tests of the service: `with-systemd` boots it, commands are run in it, it is thrown away."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from tests.harness import wait_until

WITH_SYSTEMD = Path(__file__).with_name("with-systemd")
PROJECT = Path(__file__).parents[2]
LIFE = 3600  # seconds after which it is gone, whatever became of the tests
SCRIPTS = "/opt/fabstird/scripts"  # the project's, in the machine
BOOT = 300.0
COMMAND = 600.0  # seconds for one command, on a machine that is busy with other things
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

until = partial(wait_until, within=120, every=0.05)


class Machine:
    """``pid`` is that of its systemd, as seen from outside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(
        self, *command: str, user: str = "root", check: bool = True, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; what it printed is text, both streams apart."""
        inside = self._inside(user)
        ran = subprocess.run([*inside, *command], input=stdin, capture_output=True, timeout=COMMAND, check=False)
        done = subprocess.CompletedProcess(command, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
        assert not check or not ran.returncode, f"{shlex.join(command)}: {ran.returncode}\n{done.stdout}{done.stderr}"
        return done

    @contextmanager
    def running(self, *command: str, user: str) -> Iterator[subprocess.Popen[str]]:
        """The same while it runs; what it prints is a pipe."""
        with subprocess.Popen([*self._inside(user), *command], stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def _inside(self, user: str) -> list[str]:
        """What runs a command inside as that user."""
        home = "/root" if user == "root" else f"/home/{user}"
        inside = ["nsenter", f"--target={self.pid}", "--all", "--root", "env", "--chdir=/", "-i", f"PATH={PATH}"]
        inside += [f"HOME={home}", "LC_ALL=C.UTF-8", "COLUMNS=400", "SYSTEMD_PAGER="]
        if user != "root":
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return inside

    def shell(self, script: str) -> str:
        return self.run("bash", "-euc", script).stdout

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        place = shlex.quote(path)
        script = f"mkdir -p $(dirname {place}); umask 077; cat >{place}; chmod {mode:o} {place}"
        self.run("bash", "-euc", script, stdin=data)

    def unpack(self, tree: Path, where: str = "/") -> None:
        """Lay a folder of this machine over one of that machine."""
        packed = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True)
        self.run("mkdir", "-p", where)
        self.run("tar", "-C", where, "-x", "--no-overwrite-dir", "--no-same-owner", stdin=packed.stdout)


@contextmanager
def booted(log: Path) -> Iterator[Machine]:
    """A machine whose systemd has started; ``log`` has its last words."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [WITH_SYSTEMD, str(LIFE), "sleep", "infinity"], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:

        def find() -> int | None:
            assert process.poll() is None, f"no systemd: {log.read_text()}"
            return _init(process.pid)

        machine = Machine(until(find, within=BOOT))
        until(
            lambda: machine.run("systemctl", "is-active", "basic.target", check=False).stdout == "active\n", within=BOOT
        )
        yield machine
    finally:
        if (pid := _init(process.pid)) is not None:
            psutil.Process(pid).kill()  # pid 1 takes everything in there along
        try:
            process.wait(BOOT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _init(pid: int) -> int | None:
    """The descendant that is pid 1 in a namespace of its own and has become systemd."""
    try:
        for child in psutil.Process(pid).children(recursive=True):
            status = Path(f"/proc/{child.pid}/status").read_text()
            if child.name() == "systemd" and "\t1" in status.partition("NSpid:")[2].partition("\n")[0]:
                return child.pid
    except (psutil.NoSuchProcess, FileNotFoundError):
        pass  # it has just ended
    return None


def has_systemd() -> str | None:
    """What this machine lacks for it."""
    for needed in ("/lib/systemd/systemd", "/usr/bin/systemd-analyze"):
        if not os.path.exists(needed):
            return f"there is no {needed} here (package systemd)"
    return None
