"""Trap 16, our side: what is shown in a process that has imported nothing yet."""

import importlib
import importlib.util
import io
import logging
import sys

import trio

from .stock import Verdict, main

ON_THE_WAY_TO_READY = ("cli", "daemon", "api.http_server", "rpc.methods.table", "p2p.node")


async def imports() -> Verdict:
    """Imports what the daemon needs before its API answers."""
    imported = [f"fabstird.{name}" for name in ON_THE_WAY_TO_READY if exists(f"fabstird.{name}")]
    for name in imported:
        importlib.import_module(name)
    return {"imported": imported, "libp2p_modules": [name for name in sys.modules if name.split(".")[0] == "libp2p"]}


def exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


async def root_logger() -> Verdict:
    """Configures logging, loads libp2p, lives a little."""
    from fabstird.log.logger import configure

    sys.stderr = output = io.StringIO()
    configure("info", "json")
    handlers = list(logging.getLogger().handlers)

    from fabstird.p2p.node import load

    await load()

    from tests.harness import until
    from tests.support.minipeer import mini_peers

    from .ours import PATIENCE, Record, address, our_host

    record = Record()
    async with our_host(record=record) as host, mini_peers(2) as [caller, callee]:
        await caller.dial(address(host))
        await host.dial(await callee.listen(), timeout=PATIENCE)
        async with await trio.open_tcp_stream("127.0.0.1", int(address(host).split("/")[4])) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: host.swarm.inbound.handshakes_failed)
    libp2p = logging.getLogger("libp2p")
    return {
        "root_handlers_are_ours": logging.getLogger().handlers == handlers,
        "libp2p_handlers": len(libp2p.handlers),
        "libp2p_joins": libp2p.propagate,
        "lines": output.getvalue().splitlines(),
    }


if __name__ == "__main__":
    main(globals())
