"""Traps 3 and 8 on stock py-libp2p 0.8.1: what leaving and closing a host does and leaves behind."""

import trio
import trio.testing

from tests.harness import until
from tests.support.counting import sockets, tasks
from tests.support.minipeer import mini_peers

from .stock import Verdict, main
from .stock_hosts import Observer, address, peer_info, stock_host


async def leaving_run() -> Verdict:
    """Trap 3. A host with an outbound and an inbound connection leaves `host.run()`; then its old port is tried."""
    observer = Observer()
    async with mini_peers(2) as [caller, callee]:
        callee_address = await callee.listen()
        await trio.testing.wait_all_tasks_blocked()
        tasks_before, sockets_before = tasks(), sockets()
        async with stock_host() as host:
            host.get_network().register_notifee(observer)
            target = address(host)
            await caller.dial(target)
            await host.connect(peer_info(callee_address))
            await until(lambda: len(observer.connected_ones) == 2)
            conns = [*caller.connections, *callee.connections]
        with trio.move_on_after(1):
            for conn in conns:
                await conn.closed.wait()
        still_open = [conn for conn in conns if not conn.closed.is_set()]
        for conn in still_open:
            await conn.aclose()
        verdict = {
            "connected": len(observer.connected_ones),
            "disconnected": len(observer.disconnected_ones),
            "left_open": len(still_open),
            "tasks": tasks() - tasks_before,
            "sockets": sockets() - sockets_before,
        }
        try:
            await (await trio.open_tcp_stream("127.0.0.1", int(target.split("/")[4]))).aclose()
            return {**verdict, "knock": "accepted"}
        except OSError as error:
            return {**verdict, "knock": str(error)}


async def closing_many() -> Verdict:
    """Trap 8. The time that `host.close()` takes with twenty peers."""
    count = 20
    async with stock_host() as host, mini_peers(count) as peers:
        for peer in peers:
            await peer.dial(address(host))
        await until(lambda: len(host.get_network().connections) == count)
        began = trio.current_time()
        await host.close()
        return {"peers": count, "took": trio.current_time() - began}


if __name__ == "__main__":
    main(globals())
