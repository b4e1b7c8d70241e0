"""Checks of the daemon from outside, whether it answers or not.

Each check yields findings in words, with the cure for each fault. No check changes anything, and every wait is bounded.
"""

from __future__ import annotations

import grp
import http.client
import json
import os
import pwd
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from fabstir_client._core.calls import raw_method
from fabstir_client._core.discovery import Endpoint, Target, describe, dialable, read_regular
from fabstir_client._core.protocol import Session
from fabstir_client._sync.calling import request
from fabstir_client._sync.link import Link
from fabstir_client.api.errors import FabstirError, Forbidden, RpcError
from fabstir_client.cli import doctor_machine
from fabstir_client.cli.doctor_findings import Context, Finding
from fabstir_client.cli.doctor_reach import reach
from fabstir_client.cli.format import counted

ANSWER = 5.0  # seconds for HTTP
ROOM = 64 * 1024 * 1024  # bytes on the disk of the data directory


def run_checks(target: Target, config_file: str | None = None) -> Iterator[Finding]:
    """Run all checks, and yield each finding at once."""
    context = Context(target, config_file)
    for check in (_daemon, _config, _node, reach, _data_dir, _token, _http, *doctor_machine.CHECKS):
        yield from check(context)


# --------------------------------------------------------------------------------------------------------------------
# The daemon and its socket


def _daemon(context: Context) -> Iterator[Finding]:
    refused = False
    for candidate in context.target.candidates():
        if candidate.endpoint is None:
            yield Finding("daemon", "skipped", f"{candidate.label}: {candidate.reason}")
            continue
        try:
            link = Link.open_at(candidate.endpoint)
        except FabstirError as error:
            refused = True
            cure = "set FABSTIR_TOKEN, or use the socket"
            if isinstance(error, Forbidden) and error.data.get("status") == 403:
                cure = f'add "{candidate.endpoint.host}" to [api] allowed_hosts of the daemon, or use the socket'
            yield Finding("daemon", "fault", f"{candidate.label}: {error}", cure)
            continue
        except OSError as error:
            denied = isinstance(error, PermissionError)
            refused |= denied
            yield Finding(
                "daemon",
                "fault" if denied else "skipped",
                f"{candidate.label}: {describe(error, candidate.endpoint.path)}",
                "call as a member of that group, or as root" if denied else None,
            )
            continue
        yield from _answers(context, link, candidate.label, candidate.endpoint)
        if context.status is not None:
            return
    if not refused:
        yield Finding("daemon", "fault", "no daemon answers", _start(context.target))


def _answers(context: Context, link: Link, label: str, endpoint: Endpoint) -> Iterator[Finding]:
    began = time.perf_counter()
    try:
        context.status = _call(link, "status")
        took = (time.perf_counter() - began) * 1000
        context.config = _call(link, "config")
        context.addresses = _call(link, "addresses")
    except RpcError as error:
        yield Finding("daemon", "warning", f"{label} answers, but does not allow all calls: {error}")
    except FabstirError as error:
        cure = "kill -USR1 PID writes to its log what each task is waiting for"
        yield Finding("daemon", "fault", f"{label} accepts the connection, but does not answer: {error}", cure)
        return
    finally:
        link.close()
    if context.status is not None:
        yield Finding("daemon", "ok", f"{label} answers in {took:.1f} ms")
    if endpoint.path is not None:
        yield from _socket(endpoint.path)


def _call(link: Link, method: str) -> Any:
    return json.loads(bytes(request(link, Session(), raw_method(method, None, 10.0), [])))


def _socket(path: str) -> Iterator[Finding]:
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    owner, group = _name(pwd.getpwuid, found.st_uid), _name(grp.getgrgid, found.st_gid)
    about = f"{path}: mode {mode:04o}, user {owner}, group {group}"
    if mode & 0o002:
        yield Finding("socket", "warning", f"{about}: every user may use the API", 'set [api] ipc_mode = "0660"')
    else:
        yield Finding("socket", "ok", about)


def _name(find: Callable[[int], Any], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)


def _start(target: Target) -> str:
    command = target.start()
    if command is None:
        return "check the address, and whether the daemon there is running"
    unit = any(
        os.path.exists(f"{folder}/systemd/system/fabstird.service")
        for folder in ("/etc", "/usr/local/lib", "/usr/lib", "/lib")
    )
    service = unit and command == "fabstird run"
    return "systemctl enable --now fabstird; if it fails, see systemctl status fabstird" if service else command


# --------------------------------------------------------------------------------------------------------------------
# Configuration, node, files


def _config(context: Context) -> Iterator[Finding]:
    """The configuration of the running daemon; without one, that which a daemon on this machine would read."""
    if context.config:
        return
    if find_spec("fabstird") is None:
        yield Finding("config", "skipped", "the daemon is not installed beside this client, and does not answer")
        return
    command = [sys.executable, "-m", "fabstird", "check-config", *filter(None, [context.config_file])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("config", "skipped", f"fabstird check-config did not run: {error}")
        return
    if done.returncode:
        for line in done.stderr.splitlines():
            yield Finding(
                "config", "fault", line.removeprefix("fabstird: "), "correct it; fabstird check-config shows all"
            )
        return
    context.config = json.loads(done.stdout)
    found = [line.removeprefix("fabstird: warning: ") for line in done.stderr.splitlines()]
    for line in found:
        yield Finding("config", "fault", line, "correct it; until then, fabstird check-config --strict exits with 2")
    if not found:
        yield Finding("config", "ok", "fabstird check-config finds no mistakes")


def _node(context: Context) -> Iterator[Finding]:
    status = context.status
    if status is None:
        return
    if status["state"] == "failed":
        yield Finding("node", "fault", f"failed: {status.get('error')}", "correct the cause, then: fabstir start")
    elif status["state"] != "started":
        yield Finding("node", "fault", f"the node is {status['state']}", "fabstir start")
    elif not status["peers"]:
        cure = "see the bootstrap nodes below; fabstir explain ADDRESS shows why dials fail"
        yield Finding("node", "warning", "started, but no peer is connected", cure)
    else:
        yield Finding("node", "ok", f"started, {counted(status['peers'], 'peer')}")


def _data_dir(context: Context) -> Iterator[Finding]:
    path = context.data_dir
    try:
        found = os.stat(path)
        disk = os.statvfs(path)
    except PermissionError:
        yield Finding("data", "skipped", f"{path} cannot be accessed by {_name(pwd.getpwuid, os.geteuid())}")
        return
    except OSError as error:
        wanted = context.status is None
        missing = "does not exist yet; the daemon creates it"
        words = missing if isinstance(error, FileNotFoundError) else error.strerror
        yield Finding("data", "skipped" if wanted else "ok", f"{path}: {words}")
        return
    free = disk.f_bavail * disk.f_frsize
    if free < ROOM:
        yield Finding("data", "fault", f"{path}: only {free // 2**20} MiB are free on its disk", "free some space")
    if found.st_uid == os.geteuid() and not os.access(path, os.W_OK):
        yield Finding("data", "fault", f"{path} cannot be written", f"chmod u+w {path}")
    try:
        api = json.loads(read_regular(os.path.join(path, "api.json")))
    except (OSError, ValueError, RecursionError):
        api = None
    context.api = api if isinstance(api, dict) else {}
    for name in ("identity.key", "api.token"):
        yield from _secret(os.path.join(path, name))


def _secret(path: str) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return  # the daemon creates it
    if mode & 0o077:
        yield Finding("data", "fault", f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
    else:
        yield Finding("data", "ok", f"{path}: mode {mode:04o}")


def _token(context: Context) -> Iterator[Finding]:
    path = os.path.join(context.data_dir, "api.token")
    try:
        text = read_regular(path).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        yield Finding("token", "skipped", f"{path}: {error.strerror}; HTTP needs it, the socket does not")
        return
    if not text.isascii() or not text.isprintable() or len(text) < 16:
        yield Finding("token", "fault", f"{path} holds no valid token", f"rm {path}, then restart the daemon")


def _http(context: Context) -> Iterator[Finding]:
    """Whether HTTP answers where the daemon says that it listens."""
    where = context.api.get("http") or (context.config.get("api") or {}).get("http")
    if context.status is None or not where or str(where).startswith("unix:"):
        return
    host, _, port = str(where).removeprefix("http://").rpartition(":")
    host = dialable(host.strip("[]"))
    if not host.startswith("127.") and host not in ("::1", "localhost"):
        text = f"{where} is open to the network, without encryption"
        yield Finding("http", "warning", text, "keep [api] http on 127.0.0.1; use ssh or a TLS proxy to reach it")
    connection = None
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER)
        for path in ("/healthz", "/readyz"):
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(ROOM)
            if answer.status == 403:
                text = f"{path} says 403: {body.decode('utf-8', 'replace').strip()[:200]}"
                yield Finding("http", "fault", text, f'add "{host}" to [api] allowed_hosts')
                return
            yield from _health(path, answer.status, json.loads(body or b"{}"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = describe(error) if isinstance(error, OSError) else str(error)
        yield Finding(
            "http", "fault", f"http://{where}: {words}", "look for a firewall on loopback, or another program there"
        )
    finally:
        if connection is not None:
            connection.close()


def _health(path: str, status: int, answer: dict[str, Any]) -> Iterator[Finding]:
    if status == 200:
        yield Finding("http", "ok", f"{path} says {answer.get('status')}")
    else:
        code = f" ({answer['code']})" if "code" in answer else ""
        reason = answer.get("error") or answer.get("reason")
        yield Finding(
            "http", "fault", f"{path} says {status}: {reason}{code}", "see fabstir status, and the node above"
        )
    if path == "/healthz":
        for warning in answer.get("warnings", ()):
            yield Finding(
                "http", "warning", f"{warning['reason']} ({warning['code']})", "fabstir dump; see docs/monitoring.md"
            )
