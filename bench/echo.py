"""A bare socket on trio that sends back every line: what any daemon on trio pays before it has done anything.

usage: python -m bench.echo PATH
"""

from __future__ import annotations

import sys
from functools import partial

import trio


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def main(path: str) -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen(128)
    print("ready", flush=True)
    await partial(trio.serve_listeners, handler=echo)(listeners=[trio.SocketListener(sock)])


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
