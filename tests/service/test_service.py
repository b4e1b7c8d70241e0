"""fabstird under the real systemd: started, watched, reloaded, stopped, killed, frozen, activated."""

from __future__ import annotations

import json
import re

import pytest

from tests.service.machine import COMMAND, Machine, until
from tests.service.unit import CONFIG, SOCKET, STATE, Service

STOP = 5.0  # seconds from SIGTERM to exit 0, even with peers
UNITS = "/usr/local/lib/systemd/system"
NO_DAEMON = 3  # exit status of `fabstir`
WATCHDOG = "WatchdogSec=10\nRestartSec=100ms"
# What SIGUSR2 does to a daemon in which this is: its loop is blocked from within, by code that never yields.
BLOCKER = "import signal, time\nsignal.signal(signal.SIGUSR2, lambda *_: time.sleep(600))\n"


def may_use(service: Service) -> None:
    """A member of the group may, nobody else."""
    ours = service.machine.run("fabstir", "status", user="member")
    assert service.call("status")["peerId"] in ours.stdout
    theirs = service.machine.run("fabstir", "status", user="stranger", check=False)
    assert theirs.returncode == NO_DAEMON
    assert "permission denied, it is for members of the group fabstir" in theirs.stderr
    assert "usermod -aG fabstir stranger" in theirs.stderr
    assert "Traceback" not in theirs.stderr


# --------------------------------------------------------------------------------------------------------------------
# The units


def test_systemd_finds_nothing_wrong_with_the_units(machine: Machine) -> None:
    ran = machine.run("systemd-analyze", "verify", f"{UNITS}/fabstird.service", f"{UNITS}/fabstird.socket")
    assert ran.stdout + ran.stderr == ""


def test_systemd_finds_the_service_well_confined(machine: Machine) -> None:
    ran = machine.run("systemd-analyze", "security", "--no-pager", "fabstird.service")
    found = re.search(r"Overall exposure level for fabstird.service: ([0-9.]+)", ran.stdout)
    assert found, ran.stdout
    assert float(found[1]) <= 1.5, ran.stdout


def test_what_it_may_use_is_limited(service: Service) -> None:
    service.start()
    assert (service.show("MemoryMax"), service.show("TasksMax")) == (str(1 << 30), "128")
    # Not by TasksCurrent=: this machine's kernel may not give the unit a controller that counts
    threads = service.machine.run("ls", f"/proc/{service.pid}/task").stdout.split()
    assert 0 < len(threads) < 64


# --------------------------------------------------------------------------------------------------------------------
# Start, reload, stop


def test_ready_is_when_the_api_answers(service: Service) -> None:
    service.start()  # returns at READY=1
    assert service.call("version")["version"]
    assert service.machine.run("curl", "-sS", "http://127.0.0.1:4780/healthz").stdout == '{"status":"ok"}'
    assert service.show("ActiveState") == "active"


def test_nothing_that_is_measured_is_lost_by_the_confinement(service: Service) -> None:
    service.start()
    token = service.machine.run("cat", f"{STATE}/api.token").stdout.strip()
    metrics = service.machine.run(
        "curl", "-sS", "-H", f"Authorization: Bearer {token}", "http://127.0.0.1:4780/metrics"
    ).stdout
    for name in ("process_start_time_seconds", "process_open_fds", "fabstird_event_loop_delay_seconds_count"):
        assert f"\n{name}" in metrics


def test_the_status_says_peers_and_dials(service: Service) -> None:
    service.configure(
        CONFIG + 'bootstrap_nodes = ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWLoYk8GzBBYoag5fXCNaVqu56c3592W3xBoxES6E2aU5v"]\n'
        "retry_delay = 600000\n"
    )
    service.start()
    until(lambda: service.show("StatusText") == "0 peers, 0 connections; 0 dials under way, 1 waiting")
    assert 'Status: "0 peers, 0 connections; 0 dials under way, 1 waiting"' in service.status()


def test_the_status_says_why_the_node_is_down(service: Service) -> None:
    service.configure(CONFIG.replace("tcp/0", "tcp/4780"))  # the port of its own HTTP
    service.start()
    until(lambda: service.show("StatusText").startswith("the node failed: cannot listen on /ip4/127.0.0.1/tcp/4780"))
    assert service.call("status")["state"] == "failed"


def test_its_files_are_its_own_and_its_socket_the_group_s(service: Service) -> None:
    service.start()
    shown = service.machine.shell(f"stat -c '%a %U %G %n' {STATE} {STATE}/* /run/fabstird {SOCKET}").splitlines()
    assert f"700 fabstird fabstir {STATE}" in shown
    assert f"600 fabstird fabstir {STATE}/identity.key" in shown
    assert f"600 fabstird fabstir {STATE}/api.token" in shown
    assert "750 fabstird fabstir /run/fabstird" in shown
    assert f"660 fabstird fabstir {SOCKET}" in shown


def test_members_of_the_group_may_use_it_after_every_restart(service: Service) -> None:
    service.start()
    may_use(service)
    service.systemctl("restart")
    may_use(service)
    service.systemctl("stop")
    service.start()
    may_use(service)


def test_a_reload_takes_over_what_can_change(service: Service) -> None:
    service.start()
    pid = service.pid
    service.configure(CONFIG + "[connections]\nmax = 77\n")
    service.systemctl("reload")
    until(lambda: service.call("config")["connections"]["max"] == 77)
    until(lambda: service.show("SubState") == "running")
    assert service.pid == pid


def test_a_wrong_configuration_is_not_taken_over_and_shown(service: Service) -> None:
    service.start()
    service.configure(CONFIG + "[connections]\nmax = -7\n")
    service.systemctl("reload")
    until(lambda: "configuration not reloaded: /etc/fabstird/config.toml: connections.max" in service.status())
    assert service.show("ActiveState") == "active"
    service.configure(CONFIG)
    service.systemctl("reload")
    until(lambda: "not reloaded" not in service.show("StatusText"))


def test_a_stop_with_peers_connected(service: Service) -> None:
    service.start()
    for number in range(3):
        peer(service, number)
    until(lambda: service.show("StatusText").startswith("3 peers, 3 connections"))
    service.systemctl("stop")
    began, ended = (int(service.show(f"{name}TimestampMonotonic")) for name in ("ActiveExit", "InactiveEnter"))
    assert ended - began < STOP * 1_000_000
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert service.show("ActiveState") == "inactive"


def peer(service: Service, number: int) -> None:
    """Another daemon in the same machine, connected to the service's."""
    options = ["--data-dir", f"/var/tmp/peer{number}", "--set", "api.http=", "--set", "node.enable_mdns=false"]
    options += ["--set", "node.enable_dht=false", "--set", 'node.listen_addresses=["/ip4/127.0.0.1/tcp/0"]']
    service.machine.run(
        "systemd-run", f"--unit=peer@{number}", "--quiet", "--service-type=notify", "fabstird", "run", *options
    )
    own = ["fabstir", "--data-dir", f"/var/tmp/peer{number}"]
    service.machine.run(*own, "wait", "started", "--timeout", "60")
    service.machine.run("fabstir", "wait", "started", "--timeout", "60", user="member")
    (address,) = service.call("status")["listenAddresses"]
    service.machine.run(*own, "connect", address)


# --------------------------------------------------------------------------------------------------------------------
# What it survives


def test_a_killed_daemon_is_back_with_its_peer_id(service: Service) -> None:
    service.start()
    pid, peer_id = service.pid, service.call("status")["peerId"]
    service.kill("KILL")
    service.until_restarted(pid)
    assert service.call("status")["peerId"] == peer_id
    assert service.show("NRestarts") == "1"
    may_use(service)


def test_a_frozen_daemon_is_restarted_by_the_watchdog(service: Service) -> None:
    service.drop_in(WATCHDOG)
    service.start()
    pid, peer_id = service.pid, service.call("status")["peerId"]
    service.kill("STOP")
    service.until_restarted(pid)
    until(lambda: "Watchdog timeout" in service.journal())
    assert service.call("status")["peerId"] == peer_id


def test_a_blocked_loop_is_restarted_and_the_log_says_by_what(service: Service) -> None:
    site = service.machine.shell("echo /usr/local/lib/fabstird/lib/python3*/site-packages").strip()
    service.machine.write(f"{site}/blocker.py", BLOCKER)
    service.machine.write(f"{site}/blocker.pth", "import blocker\n")  # every Python of the installation imports it
    try:
        service.drop_in(WATCHDOG)
        service.start()
        pid = service.pid
        service.kill("USR2")
        service.until_restarted(pid)
    finally:
        service.machine.run("rm", f"{site}/blocker.pth", f"{site}/blocker.py")
    # The journal is written side by side with what the services do; the stack has the line that blocked
    for words in ("Watchdog timeout", "Fatal Python error: Aborted", "blocker.py"):
        until(lambda words=words: words in service.journal())


def test_an_idle_daemon_feeds_the_watchdog(service: Service) -> None:
    service.drop_in(WATCHDOG)
    service.start()
    pid, told = service.pid, service.show("WatchdogTimestampMonotonic")
    for _ in range(2):
        until(lambda told=told: service.show("WatchdogTimestampMonotonic") != told)
        told = service.show("WatchdogTimestampMonotonic")
    assert service.pid == pid


# --------------------------------------------------------------------------------------------------------------------
# Socket activation


@pytest.mark.parametrize("how", ["ipc", "http"])
def test_the_first_call_starts_it_and_is_answered(service: Service, how: str) -> None:
    service.machine.run("systemctl", "start", "fabstird.socket")
    for _ in range(2):  # from cold, and again after a stop
        assert service.pid == 0
        if how == "ipc":
            assert service.call("status")["peerId"]
        else:
            assert service.machine.run("curl", "-sS", "http://127.0.0.1:4780/healthz").stdout == '{"status":"ok"}'
        assert service.pid
        may_use(service)
        service.systemctl("stop")


def test_calls_during_a_restart_wait_for_it(service: Service) -> None:
    service.machine.run("systemctl", "start", "fabstird.socket")
    service.start()
    # A restart in which nothing runs until we say so
    service.drop_in("ExecStartPre=sh -c 'until [ -e /run/go-on ]; do sleep 0.1; done'\nTimeoutStartSec=120")
    service.systemctl("restart", "--no-block")
    until(lambda: service.show("SubState") == "start-pre")
    with service.machine.running("fabstir", "--json", "version", user="member") as call:
        until(lambda: waiting_callers(service) == 1)
        service.machine.run("touch", "/run/go-on")
        told, _ = call.communicate(timeout=COMMAND)
    service.machine.run("rm", "/run/go-on")
    # Only what does not depend on how far the node has come since: its protocols do
    assert (call.returncode, json.loads(told)["version"]) == (0, service.call("version")["version"])


def waiting_callers(service: Service) -> int:
    """How many have connected to the socket that nobody has taken yet."""
    (listening,) = service.machine.run("ss", "--no-header", "-xl", "src", SOCKET).stdout.splitlines()
    return int(listening.split()[2])


def test_a_passed_socket_that_nothing_may_serve_is_an_error(service: Service) -> None:
    service.configure(CONFIG + '[api]\nhttp = ""\n')
    service.drop_in("Restart=no")
    service.machine.run("systemctl", "start", "fabstird.socket")
    shown = service.fail_to_start()
    assert "status=4" in shown
    assert "the socket unit listens at 127.0.0.1:4780, but [api] http is switched off" in shown
