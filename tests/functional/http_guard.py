"""What the guard of the HTTP endpoint refuses, in the order in which it looks; and what an upgrade is answered."""

from __future__ import annotations

from itertools import combinations

import trio

from tests.harness import ANSWER, Process, upgrade_text

LIMIT = 2000
ORIGIN = "https://app.example.org"
VERSION = b'{"jsonrpc": "2.0", "id": 1, "method": "version"}'


def subsets(*names: str) -> list[tuple[str, ...]]:
    return [some for size in range(len(names) + 1) for some in combinations(names, size)]


WRONG: dict[str, tuple[int, dict[str, str | None]]] = {  # in the order in which they are checked
    "host": (403, {"host": "evil.example"}),
    "origin": (403, {"origin": "https://evil.example"}),
    "token": (401, {"authorization": "Bearer nonsense"}),
    "type": (415, {"content_type": "text/plain"}),
    "size": (413, {}),
}


async def upgraded(running: Process, path: str = "/ws", **headers: str | None) -> int:
    """The status of the answer to an upgrade; 101 where it succeeds."""
    with trio.fail_after(ANSWER):
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(upgrade_text(running, path, **headers))
            received = b""
            while b"\r\n" not in received:
                data = await stream.receive_some()
                assert data, received
                received += data
    return int(received.split(b" ")[1])
