"""The Containerfile, where no container engine is: its steps, in their order, on a copy of this machine that they alone
see, and its command as its user. What only an engine can show is left out: the base image, and that the packages named
are all that it lacks (here `apt-get install` asks only whether they are there)."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.service.machine import PROJECT

WITHIN = 600  # seconds, for all of it on a machine that is busy with other things
TEXT = (PROJECT / "Containerfile").read_text()
BEGIN = r"""
set -euo pipefail
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
root=/mnt/root
mount -t proc proc $root/proc
for directory in run var/tmp dev; do mount -t tmpfs -o mode=0755 tmpfs $root/$directory; done
for node in null zero random urandom; do touch $root/dev/$node; mount --bind /dev/$node $root/dev/$node; done
ip link set lo up
rm -rf $root/usr/local/bin/fabst* $root/usr/local/lib/fabstird
cat >$root/usr/local/bin/apt-get <<'APT'
#!/bin/sh
[ "$1" = install ] || exit 0
shift
for package; do case $package in -*) ;; *) dpkg --status "$package" >/dev/null || exit 1 ;; esac; done
APT
chmod 0755 $root/usr/local/bin/apt-get
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def steps() -> list[list[tuple[str, str]]]:
    """The instructions of each stage."""
    lines = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
    stages: list[list[tuple[str, str]]] = []
    for word, rest in lines:
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def script(installed: Path) -> str:
    """The last stage's steps, then the container's life: healthy, asked, and stopped."""
    told, environ, user, final = [BEGIN], ["env", "-i", "PATH=$PATH"], "root", {}
    for word, rest in steps()[-1]:
        inside = f"chroot --userspec={user} $root {' '.join(environ)}"
        if word == "RUN":
            told.append(f"{inside} sh -c {shlex.quote(rest)}")
        elif word == "COPY":
            assert rest == "--from=build /image/ /"
            told.append(f"cp -a {installed}/* $root/")
        elif word == "ENV":
            environ += [shlex.quote(setting) for setting in shlex.split(rest)]
        elif word == "USER":
            user = rest
        else:
            final[word] = rest
    inside = f"chroot --userspec={user} $root {' '.join(environ)}"
    start = shlex.join([*json.loads(final["ENTRYPOINT"]), *json.loads(final["CMD"])])
    health = shlex.join(json.loads(final["HEALTHCHECK"].partition("CMD ")[2]))
    told += [
        f"{inside} {start} 2>/mnt/log & daemon=$!",
        f"for _ in $(seq 60); do {inside} {health} >/dev/null 2>&1 && break; sleep 1; done || true",
        f"{inside} {health} || {{ cat /mnt/log; exit 1; }}",
        f"{inside} fabstir wait started --timeout 60s",
        f"echo STATUS $({inside} fabstir --json status)",
        "echo OWNER $(stat -c %u:%a $root/var/lib/fabstird/identity.key) $(stat -c %u $root/proc/$daemon)",
        "kill -TERM $daemon; wait $daemon && echo STOPPED",
    ]
    return "\n".join(told)


def test_what_is_built_is_what_make_install_makes() -> None:
    build, final = steps()
    assert build[-1] == ("RUN", "make install DESTDIR=/image")
    assert build[0][1].split()[0] == final[0][1], "the program needs the Python that it was built with"
    assert {word for word, _ in final} >= {"USER", "VOLUME", "HEALTHCHECK", "EXPOSE"}


@pytest.mark.usefixtures("root")
def test_the_steps_make_a_daemon_that_is_healthy_and_not_root(installed: Path) -> None:
    ran = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "-c", script(installed)],
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    status = json.loads(re.findall(r"^STATUS (.*)$", ran.stdout, re.M)[0])
    assert status["state"] == "started"
    assert all("/tcp/4001/" in address for address in status["listenAddresses"])
    assert re.search(r"^OWNER 4780:600 4780$", ran.stdout, re.M), ran.stdout
    assert ran.stdout.endswith("STOPPED\n")
