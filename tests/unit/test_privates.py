"""What begins with an underscore is its owner's: no module of ours touches another one's, or a library's, outside the
adapter that exists for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADAPTERS = {  # what of a library has no public name, by the module that adapts it
    "fabstird/api/http1.py": {"_create_stream", "_receive_buffer", "_send_h11_event"},  # of hypercorn's and h11's
    "fabstird/api/asgi.py": {"_handle", "_nursery"},  # of hypercorn's task group
    "fabstird/api/http_connection.py": {"_close", "_initiate_server_close"},  # of hypercorn's server
    "fabstird/rpc/jsonrpcserver_adapter.py": {"_value", "_error"},  # of oslash's results
    "fabstird/cli.py": {"_exit"},  # of os
    "fabstird/signals.py": {"_exit"},  # of os
    "fabstir_client/cli/reader.py": {"_exit"},  # of os
    "fabstird/p2p/quic/engine.py": {  # of aioquic's connection, which is pinned for that
        *("_close_event", "_get_or_create_stream_for_send", "_handle_crypto_frame", "_handle_stream_frame"),
        *(
            "_handshake_complete",
            "_handshake_confirmed",
            "_host_cids",
            "_idle_timeout",
            "_initialize",
            "_is_client",
            "_local_max_data",
        ),
        *("_on_connection_limit_delivery", "_on_max_stream_data_delivery", "_peer_certificate", "_peer_cid"),
        *("_peer_cid_available", "_remote_active_connection_id_limit", "_request_client_certificate"),
        *("_rtt_initialized", "_rtt_smoothed", "_set_peer_certificate", "_spaces", "_state", "_streams"),
        *("_supported_groups", "_buffer", "_configuration", "_crypto_buffers", "_crypto_streams", "_events"),
        *("_get_or_create_stream", "_parse_transport_parameters", "_retry_source_connection_id", "_send_probe"),
        *("_serialize_transport_parameters", "_streams_blocked_bidi", "_streams_queue", "_unblock_streams"),
    },
    "fabstird/p2p/quic/halves.py": {  # of its streams
        *("_RangeSet__ranges", "_acked", "_buffer", "_buffer_fin", "_buffer_start", "_buffer_stop", "_pending"),
        *("_ranges", "_reset_error_code", "_stop_error_code", "_stream_id"),
    },
    "fabstird/p2p/quic/probing.py": {  # of its connection, and of its recovery
        *("_network_paths", "_packet_number", "_parse_transport_parameters", "_send_probing_frames"),
        "_time_of_last_sent_ack_eliciting_packet",
    },
    "fabstird/p2p/quic/recovery.py": {"_cc", "_max_datagram_size", "_on_packets_lost", "_pacer"},  # of what it extends
    "fabstird/p2p/quic/short_way.py": {  # of its connection, and of what that consists of
        *("_ack_delay", "_close_pending", "_crypto", "_cryptos", "_handle_ack_frame", "_handle_max_stream_data_frame"),
        *("_handle_stream_frame", "_handshake_confirmed", "_idle_timeout", "_is_client", "_loss", "_max_datagram_size"),
        *("_network_paths", "_pacer", "_payload_received", "_peer_cid", "_remote_max_data", "_spaces", "_state"),
    },
    "fabstird/p2p/transport/websocket.py": {"_max_message_size"},  # of trio-websocket's connection
    "fabstird/tasks.py": {"_current_frames"},  # of sys
    "fabstir_client/_shells/grammar.py": {"_SubParsersAction", "_actions", "_choices_actions"},  # of argparse's parsers
    "fabstir_client/_command_line.py": {"_SubParsersAction", "_actions", "_check_value"},  # likewise
    "fabstir_client/cli/parser.py": {  # likewise
        *("_SubParsersAction", "_action_groups", "_actions", "_choices_actions", "_get_formatter", "_group_actions"),
    },
}
SOURCES = sorted(path for name in ("fabstird", "fabstir_client") for path in (ROOT / name).rglob("*.py"))


BY_NAME = {"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller", "__getattribute__", "__setattr__"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def touched(source: str) -> Iterator[tuple[int, str]]:
    """Private names that are not defined in the same file, with their lines: attributes, however they are reached,
    names that are imported, and modules of libraries.

    What a file defines may be touched on ``self``, on ``cls`` and on a plain name, another object of the same class.
    It is somebody else's where it is reached through an attribute or a call, such as ``self.other._x`` or
    ``super()._x``."""
    tree = ast.parse(source)
    own = set(defined(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(), attr=name) if private(name) and name not in own:
                yield node.lineno, name
            case ast.Attribute(value=value, attr=name) if private(name) and not isinstance(value, ast.Name):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id=function) | ast.Attribute(attr=function)) if function in BY_NAME:
                yield from ((node.lineno, name) for name in texts(node.args))
            case ast.Subscript(value=ast.Attribute(attr="__dict__") | ast.Call(func=ast.Name(id="vars")), slice=key):
                yield from ((node.lineno, name) for name in texts([key]))
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((node.lineno, name.name) for name in names if foreign(module, name.name))
                yield from ((node.lineno, part) for part in module.split(".") if foreign_module(module, part))
            case ast.Import(names=names):
                for name in names:
                    yield from ((node.lineno, part) for part in name.name.split(".") if foreign_module(name.name, part))


def defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name


def texts(nodes: list[ast.expr]) -> list[str]:
    """Private names among constants; of the dotted path that `attrgetter` takes, each part."""
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [part for text in constants for part in text.split(".") if private(part)]


def foreign(module: str, name: str) -> bool:
    """A private name of another module, which is no module itself."""
    if not private(name):
        return False
    path = ROOT.joinpath(*module.split("."), name)
    return not (path.is_dir() or path.with_suffix(".py").is_file())


def foreign_module(module: str, part: str) -> bool:
    return private(part) and module.split(".")[0] not in ("fabstird", "fabstir_client")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_touches_what_is_private_to_another(path: Path) -> None:
    allowed = ADAPTERS.get(str(path.relative_to(ROOT)), set())
    found = [f"{path}:{line}: {name}" for line, name in touched(path.read_text()) if name not in allowed]
    assert not found


def test_an_adapter_is_named_for_what_it_touches() -> None:
    for name, attributes in ADAPTERS.items():
        assert {attribute for _, attribute in touched((ROOT / name).read_text())} == attributes, name


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("self._mine", []),
        ("another._mine", []),
        ("self._method()", []),
        ("another._theirs", ["_theirs"]),
        ("self._inherited()", ["_inherited"]),
        ("self.other._mine", ["_mine"]),
        ("make()._mine", ["_mine"]),
        ("super()._method()", ["_method"]),
        ("others[0]._mine = 1", ["_mine"]),
        ('getattr(another, "_mine", None)', ["_mine"]),
        ('builtins.setattr(another, "_theirs", 1)', ["_theirs"]),
        ('operator.attrgetter("public._theirs")', ["_theirs"]),
        ('object.__getattribute__(another, "_theirs")', ["_theirs"]),
        ('another.__dict__["_theirs"]', ["_theirs"]),
        ('vars(another)["_theirs"]', ["_theirs"]),
        ('getattr(another, "public")', []),
        ("another.__class__", []),
        ("from library import _theirs", ["_theirs"]),
        ("from fabstird.p2p.fence import _Around", ["_Around"]),
        ("from fabstir_client import _stdio", []),
        ("from fabstir_client._core import cursor", []),
        ("from library._inner import theirs", ["_inner"]),
        ("import library._inner", ["_inner"]),
    ],
)
def test_what_is_found(line: str, found: list[str]) -> None:
    source = f"class Own:\n  def __init__(self): self._mine = 1\n  def _method(self):\n    {line}"
    assert [name for _, name in touched(source)] == found
