"""What ``fabstir`` prints on a terminal of 80 columns, and the words that help whoever mistypes."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import pytest

from fabstir_client.cli import debug, dht, fitting
from fabstir_client.cli import format as form
from fabstir_client.cli.parser import GROUPS, parser
from fabstir_client.cli.results import failed
from fabstird.cli import parser as daemons
from tests.unit.scripted_daemon import ScriptedDaemon

WITHIN = 60  # seconds; a bound, never a wait
ALICE, BOB = (
    "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
)
ADDRESS = f"/ip4/203.0.113.7/tcp/40001/p2p/{ALICE}"
RELAYED = f"/dns4/relay.example.org/tcp/4001/p2p/{BOB}/p2p-circuit/p2p/{ALICE}"


def on_terminal(daemon: ScriptedDaemon, *args: str, columns: int = 80, status: int = 0) -> list[str]:
    """The lines that it writes to a terminal so wide."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", *args]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environ) as process:
        os.close(terminal)
        told = b""
        try:
            while data := os.read(controller, 65536):
                told += data
        except OSError:  # the terminal is closed
            pass
        assert process.wait(WITHIN) == status, told
    os.close(controller)
    return told.decode().replace("\r\n", "\n").splitlines()


def piped(daemon: ScriptedDaemon, *args: str) -> str:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "PYTHONUTF8": "1", "COLUMNS": "40"}
    command = [sys.executable, "-m", "fabstir_client", "--api", f"ipc:{daemon.path}", *args]
    return subprocess.run(
        command, capture_output=True, env=environ, check=True, timeout=WITHIN, encoding="utf-8"
    ).stdout


def connected(daemon: ScriptedDaemon, address: str) -> None:
    peer = daemon.peer(ALICE) | {"agentVersion": "rust-libp2p/0.54.1 and more words than there is room for"}
    daemon.methods["peers"] = lambda _: [peer | {"connections": [{"address": address, "streams": 2}]}]


@pytest.mark.parametrize("address", [ADDRESS, RELAYED])
def test_peers_fit_the_terminal(daemon: ScriptedDaemon, address: str) -> None:
    """The end of the id and the port are still there."""
    connected(daemon, address)
    head, row = on_terminal(daemon, "peers")
    assert max(len(head), len(row)) <= 80
    assert row.startswith("12D3…nXTN  ")
    assert (":40001" in row or "/40001" in row) == (address == ADDRESS)
    assert ALICE not in row


def test_whole_where_asked_and_where_no_terminal_is(daemon: ScriptedDaemon) -> None:
    connected(daemon, ADDRESS)
    assert ADDRESS in on_terminal(daemon, "peers", "--wide")[1]
    assert ADDRESS in piped(daemon, "peers")
    assert ADDRESS in on_terminal(daemon, "peers", columns=300)[1]


def test_a_list_of_addresses_fits_and_says_what_is_left_out(daemon: ScriptedDaemon) -> None:
    other = f"/ip6/2001:db8:1:2:3:4:5:6/tcp/40001/p2p/{ALICE}"
    daemon.methods["addresses"] = lambda _: {
        "peerId": ALICE, "listen": [ADDRESS, other], "announced": [], "observed": [RELAYED],
    }  # fmt: skip
    lines = on_terminal(daemon, "addresses")
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith(ALICE)
    assert lines[1].endswith("  /ip4/203.0.113.7/tcp/40001")
    assert lines[-1] == "(each ends with /p2p/ and the peer id; --wide shows complete addresses)"
    assert f"{RELAYED}\n" in piped(daemon, "addresses")


def test_events_fit_the_terminal(daemon: ScriptedDaemon) -> None:
    daemon.publish("peer:connect", peerId=ALICE, address=ADDRESS, direction="inbound")
    [line] = on_terminal(daemon, "events", "--color", "never")
    assert len(line) <= 80
    assert "peerId=12D3…nXTN" in line
    assert ADDRESS in piped(daemon, "events")


def test_tokens_and_tunnels_fit_and_say_what_their_commands_need(daemon: ScriptedDaemon) -> None:
    """The names and ids that `token revoke` and `tunnel close` take are whole, and so is what a token is limited to."""
    made = {"access": "write", "created": 1_700_000_000_000, "lastUsed": 1_700_000_000_000}
    daemon.methods["token.list"] = lambda _: [
        {"name": "dashboard-of-the-office", **made},
        {"name": "jobs", **made, "methods": ["request", "stream.open"], "protocols": ["/acme/*"], "peers": [ALICE]},
    ]
    lines = on_terminal(daemon, "token", "list")
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:3]] == ["dashboard-of-the-office", "jobs"]
    assert lines[3:] == ["  methods: request, stream.open", "  protocols: /acme/*", "  peers: 12D3…nXTN"]
    assert "request,stream.open" in piped(daemon, "token", "list")
    tunnel = {"protocol": "/websocket/1.0.0", "keep": True, "open": 1, "total": 2, "bytesIn": 1024, "bytesOut": 0}
    daemon.methods["tunnel.list"] = lambda _: [
        {"tunnelId": "2b3c614456d31c82", "kind": "forward", "listen": "127.0.0.1:8090", "peerId": ALICE, **tunnel},
        {"tunnelId": "1053d38e05e602f8", "kind": "listen", "target": "unix:/run/a-long-name/of-a.sock", **tunnel},
    ]
    assert on_terminal(daemon, "tunnel", "list") == [
        "2b3c614456d31c82  127.0.0.1:8090 -> /websocket/1.0.0 of 12D3…nXTN",
        "                  kept, 1 open of 2, 1.0 KiB in, 0 B out",
        "1053d38e05e602f8  /websocket/1.0.0 of all peers",
        "                  -> unix:/run/a-long-name/of-a.sock",
        "                  kept, 1 open of 2, 1.0 KiB in, 0 B out",
    ]
    assert piped(daemon, "tunnel", "list").startswith("TUNNEL ")
    daemon.methods["tunnel.forward"] = lambda _: daemon.methods["tunnel.list"]({})[0]
    made = "tunnel", "forward", ALICE, "/websocket/1.0.0", "127.0.0.1:8090"
    assert piped(daemon, *made) == f"2b3c614456d31c82  127.0.0.1:8090 -> /websocket/1.0.0 of {ALICE}\n"
    assert on_terminal(daemon, *made) == ["2b3c614456d31c82  127.0.0.1:8090 -> /websocket/1.0.0 of 12D3…nXTN"]


def test_the_audit_fits_and_shows_what_was_asked_for(daemon: ScriptedDaemon) -> None:
    one = {"seq": 1, "time": 1_700_000_000_000, "transport": "ipc", "uid": 1000, "pid": 31234, "method": "connect"}
    one |= {"outcome": "ok", "duration": 65.0, "params": {"address": f"{ADDRESS}/p2p/{ALICE}", "timeout": 5000}}
    asked_nothing = {**one, "seq": 2, "method": "stop", "params": {}}
    daemon.methods["audit"] = lambda _: {"entries": [one, asked_nothing], "missed": 3, "head": 2}
    gap, head, entry, below, other = on_terminal(daemon, "audit")
    assert gap.startswith("-- 3 entries are missing")
    assert head.split() == ["SEQ", "TIME", "WHO", "METHOD", "OUTCOME", "TOOK"]
    assert "ipc uid=1000 pid=31234" in entry
    assert below.startswith("  address=/ip")
    assert below.endswith("timeout=5000")
    assert other.split()[-2:] == ["ok", "65.0ms"]
    assert max(map(len, (head, entry, below, other))) <= 80
    assert piped(daemon, "audit").splitlines()[1].endswith("PARAMETERS")


def test_a_sentence_fits(daemon: ScriptedDaemon) -> None:
    told = {"peerId": ALICE, "address": ADDRESS, "direction": "outbound", "alreadyConnected": False}
    daemon.methods["connect"] = lambda _: told
    assert on_terminal(daemon, "connect", ADDRESS) == [
        "connected to 12D3…nXTN at /ip4/203.0.113.7/tcp/40001 (outbound)"
    ]
    daemon.methods["connect"] = lambda _: told | {"address": RELAYED}
    lines = on_terminal(daemon, "connect", ADDRESS)
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2
    assert f"connected to {ALICE} at {ADDRESS} (outbound)" not in "".join(lines)


def test_announce_says_who_was_told(daemon: ScriptedDaemon) -> None:
    keys = [
        {"capability": "llama", "scheme": scheme, "key": "AA==", "sent": 3, "confirmed": confirmed}
        for scheme, confirmed in (("fabstir", 3), ("sdk", 0))
    ]
    daemon.methods["fabstir.announce"] = lambda _: {"peerId": ALICE, "keys": keys, "stored": 1}
    told = piped(daemon, "announce", "llama", "--metadata", '{"region": "eu"}')
    assert told.splitlines() == [
        "llama (fabstir): sent to 3 peers, confirmed by 3",
        "llama (sdk): sent to 3 peers, confirmed by 0",
        "metadata: stored at 1 peer",
    ]
    assert daemon.calls[-1] == ("fabstir.announce", {"capabilities": ["llama"], "metadata": {"region": "eu"}})


def test_withdraw_says_what_is_no_longer_announced(daemon: ScriptedDaemon) -> None:
    daemon.methods["fabstir.withdraw"] = lambda _: {"capabilities": ["llama"], "metadata": True}
    assert piped(daemon, "withdraw", "llama", "other") == "no longer announced: llama, and the metadata\n"
    assert daemon.calls[-1] == ("fabstir.withdraw", {"capabilities": ["llama", "other"]})
    daemon.methods["fabstir.withdraw"] = lambda _: {"capabilities": [], "metadata": False}
    assert on_terminal(daemon, "withdraw", "other", status=1) == ["fabstir: none of it was announced"]


def test_instants_of_today_are_a_time_and_others_a_date() -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert fitting.brief_instants(f"until {today} 01:02:03.004Z") == "until 01:02:03Z"
    assert fitting.brief_instants(f"until {today} 01:02:03 UTC") == "until 01:02:03Z"
    assert fitting.brief_instants("2001-02-03 04:05:06Z") == "2001-02-03"


def test_instants_are_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert form.instant(1_700_000_000_007) == "2023-11-14 22:13:20.007Z"
        assert form.second(1_700_000_000_007) == "2023-11-14 22:13:20Z"
        assert form.second(10**20) == str(10**20)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_terminal_that_cannot_show_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", type("Ascii", (), {"encoding": "ascii"})())
    assert fitting.short_ids(f"x {ALICE} y") == "x 12D3..nXTN y"
    assert fitting.cut("a long text", 6) == "a lo.."


@pytest.mark.parametrize("columns", [1, 10, 20, 40, 79, 120])
def test_a_table_fits_wherever_its_heads_do(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(fitting, "_columns", columns)
    lines = [("A", "NAME"), *((cell, "x" * 50) for cell in (ALICE, ADDRESS, "", "/"))]
    shown = fitting.fitted(lines)
    assert len(shown) == len(lines)
    assert max(sum(map(len, line)) + 2 for line in shown) <= max(columns, 2 * fitting.NARROWEST + 2)


# --------------------------------------------------------------------------------------------------------------------
# Help


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        parser().parse_args(words)
    assert left.value.code == 2
    return capsys.readouterr().err


def test_every_command_is_in_one_group_of_the_help() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    [commands] = [action.choices for action in parser()._actions if action.dest == "command" and action.choices]
    assert sorted(listed) == sorted(commands)


def test_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, parser().format_help().splitlines())) <= 80


def test_help_about_a_command(daemon: ScriptedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert piped(daemon, "help") == piped(daemon, "--help")
    assert piped(daemon, "help", "token", "create") == piped(daemon, "token", "create", "--help")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["stauts"], "there is no command 'stauts' (did you mean status or start?); see fabstir --help"),
        (["tunel", "list"], "did you mean tunnel?"),
        (["token", "creat", "x"], "there is no command 'creat' (did you mean create?); see fabstir token --help"),
        (["qqq"], "there is no command 'qqq'; see fabstir --help"),
        (["status", "--jsno"], "there is no option --jsno (did you mean --json?); see fabstir status --help"),
        (["--tiemout", "5s", "status"], "there is no option --tiemout (did you mean --timeout?); see fabstir --help"),
        (["ping", "--tiemout=5s", ALICE], "there is no option --tiemout (did you mean --timeout?); see fabstir ping"),
        (["events", "-x"], "there is no option -x"),
        (["--after", "5", "events"], "--after belongs after the command: fabstir events --after; see fabstir --help"),
        (["status", "x", "y"], "unexpected argument 'x'; see fabstir status --help"),
        (["connect", "127.0.0.1:4001"], "it would look like /ip4/127.0.0.1/tcp/4001/p2p/PEERID"),
        (["connect", "[::1]:4001"], "/ip6/::1/tcp/4001/p2p/PEERID"),
        (["explain", "127.0.0.1:4001"], "it would look like /ip4/127.0.0.1/tcp/4001/p2p/PEERID"),
        (["ping", "127.0.0.1:4001"], f"is not a peer id such as {ALICE}"),
        (["protect", "127.0.0.1:4001"], f"is not a peer id such as {ALICE}"),
        (["keep", "wss://host.example:443/path"], "/dns/host.example/tcp/443/tls/ws/p2p/PEERID"),
    ],
)
def test_what_was_meant(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    told = refused(capsys, *words)
    assert expected in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--timeout", "5s", "--json", "ping", ALICE],
        ["--api=ipc:/a b", "ping", ALICE, "--timeout=5s"],
        ["ping", "--data-dir", "-", "--", "-x"],
        ["call", "echo", "--", "{}"],
        ["events", "--exec", "ls -l", "--follow"],
    ],
)
def test_what_is_no_mistake_is_read(words: list[str]) -> None:
    parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rn"], "fabstird: there is no command 'rn' (did you mean run?); see fabstird --help"),
        (["run", "--dta-dir", "x"], "there is no option --dta-dir (did you mean --data-dir?); see fabstird run --help"),
        (["run", "--data", "x"], "there is no option --data (did you mean --data-dir?)"),
        (["--data-dir", "x", "run"], "--data-dir belongs after the command: fabstird run --data-dir"),
        (["chek-config"], "did you mean check-config?"),
        (["id", "x"], "unexpected argument 'x'; see fabstird id --help"),
        ([], "the following arguments are required: COMMAND; see fabstird --help"),
    ],
)
def test_the_daemon_says_what_was_meant_too(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        daemons().parse_args(words)
    usage, *_, told = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: fabstird")
    assert expected in told


@pytest.mark.parametrize("address", [ADDRESS, ALICE, "/ip4/1.2.3.4/tcp/1", "nonsense"])
def test_what_only_the_daemon_can_judge_is_left_to_it(address: str) -> None:
    assert parser().parse_args(["connect", address]).address == address


@pytest.mark.parametrize("target", ["192.0.2.7", "2001:db8::/32", "2001:db8::7", ALICE])
def test_what_is_banned_is_left_to_the_daemon_too(target: str) -> None:
    assert parser().parse_args(["ban", target]).target == target
    assert parser().parse_args(["explain", target]).target == target


def test_the_peer_id(daemon: ScriptedDaemon) -> None:
    assert piped(daemon, "id") == piped(daemon, "status").split("peer id")[1].split()[0] + "\n"


ASKED = {"asked": 3, "complete": True}
DHT_KEY = "aGVsbG8="  # hello


@pytest.mark.parametrize(
    ("command", "result", "shown"),
    [
        (
            "find-peer",
            {"peerId": ALICE, "addresses": [f"/ip4/1.2.3.4/tcp/1/p2p/{ALICE}"], "connected": False, "asked": 1},
            ["peer id    12D3", "addresses  /ip4/1.2.3.4/tcp/1", "state      not connected", "asked      1 peer"],
        ),
        (
            "find-providers",
            {"key": DHT_KEY, "providers": [{"peerId": ALICE, "addresses": []}], "asked": 3, "complete": False},
            ["PROVIDER", "12D3", "(3 peers asked)", "(incomplete: the timeout ended the search)"],
        ),
        ("find-providers", {"key": DHT_KEY, "providers": [], **ASKED}, ["nobody provides hello", "(3 peers asked)"]),
        (
            "provide",
            {"key": DHT_KEY, "sent": 2, "confirmed": 1, "failures": {ALICE: "gone"}, **ASKED},
            ["hello is provided: sent to 2 peers, confirmed by 1", "12D3"],
        ),
        (
            "get",
            {"key": DHT_KEY, "found": True, "value": "dg==", "answers": 1, "others": 0, **ASKED},
            ["v", "(from 1 peer; 0 returned another value)"],
        ),
        ("get", {"key": "//8=", "found": False, **ASKED}, ["no value under //8= (3 peers asked)"]),
        (
            "put",
            {"key": DHT_KEY, "stored": 2, "failures": {}, **ASKED},
            ["hello is stored: 2 of 3 peers asked accepted it"],
        ),
        ("forget", {"key": DHT_KEY, "provided": True, "value": False}, ["hello is no longer provided"]),
        ("forget", {"key": DHT_KEY, "provided": True, "value": True}, ["hello is no longer provided or stored"]),
        ("routing", {"peers": 0, "buckets": []}, ["the routing table is empty"]),
    ],
)
def test_the_dht_is_shown_in_words(command: str, result: dict[str, Any], shown: list[str]) -> None:
    lines = dht.COMMANDS[command][2](result).splitlines()
    assert len(lines) == len(shown)
    assert all(line.startswith(begin) for line, begin in zip(lines, shown, strict=True)), lines


def test_a_key_under_which_nothing_was_announced_is_a_failure() -> None:
    told = {"key": DHT_KEY, "provided": False, "value": False}
    assert failed("dht.forget", told) == "nothing was announced under the key"
    for field in ("provided", "value"):
        assert failed("dht.forget", told | {field: True}) is None


def test_the_dht_s_state_and_its_table_are_shown_in_columns() -> None:
    told = {"mode": "server", "peers": 1, "values": 0, "providedKeys": 1, "lookups": 2, "asked": 3, "failed": 0,
            "answered": {"FIND_NODE": 4}, "refused": 0, "malformed": 0,
            "kept": [{"key": DHT_KEY, "provided": True, "announced": 1_700_000_000_000}]}  # fmt: skip
    lines = dht.COMMANDS["status"][2](told).splitlines()
    assert lines[2] == "holds     0 values and 1 provided key of others"
    assert lines[-1] == "hello  provided  2023-11-14 22:13:20Z  -"
    peer = {"peerId": ALICE, "connected": True, "heard": int(time.time() * 1000) - 5_000, "suspect": False}
    head, row = dht.COMMANDS["routing"][2]({"peers": 1, "buckets": [{"sharedBits": 2, "peers": [peer]}]}).splitlines()
    assert head.split() == ["SHARED", "BITS", "PEER", "STATE", "HEARD", "MARKS"]
    assert row.split()[:3] == ["2", ALICE, "connected"]


def test_what_a_task_waits_for_fits_below_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name, where = "    fabstird.p2p.mdns.discovery.Mdns._dial_nearby", "fabstird/p2p/mdns/discovery.py:258"
    assert debug.task_line(name, f"{where} Mdns._dial_nearby") == f"{name}  {where} Mdns._dial_nearby"
    monkeypatch.setattr(fitting, "_columns", 90)
    assert debug.task_line(name, f"{where} Mdns._dial_nearby") == f"{name}  {where}"
    monkeypatch.setattr(fitting, "_columns", 80)
    assert debug.task_line(name, f"{where} Mdns._dial_nearby").splitlines() == [
        name,
        f"        {where} Mdns._dial_nearby",
    ]


def test_an_error_is_broken_between_words_on_a_terminal(daemon: ScriptedDaemon) -> None:
    lines = on_terminal(daemon, "connect", "127.0.0.1:4001", status=2)
    assert len(lines) > 1
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(line.strip() for line in lines).endswith("on that host; see fabstir connect --help")
    (whole,) = on_terminal(daemon, "connect", "127.0.0.1:4001", columns=250, status=2)
    assert whole == " ".join(line.strip() for line in lines)
