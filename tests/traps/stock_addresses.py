"""Traps 10, 11, 12 and 15 on stock py-libp2p 0.8.1: what it listens on, what it says of it, and what it can dial."""

import io
import socket
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rcode
import trio
from libp2p.network.exceptions import SwarmException

from tests.harness import until
from tests.support.minipeer import mini_peer
from tests.support.ports import taken_port

from .stock import Verdict, main
from .stock_hosts import peer_info, stock_host


def bare(host: Any) -> list[str]:
    return [str(address).split("/p2p/")[0] for address in host.get_addrs()]


async def advertised() -> Verdict:
    """Trap 10. The wildcard addresses as they are advertised; the order of four addresses in up to sixty runs."""
    async with stock_host(["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]) as host:
        wildcards = [address.rpartition("/tcp/")[0] for address in bare(host)]
        await host.close()
    listen = [f"/ip4/127.0.0.{number}/tcp/0" for number in (1, 2, 3, 4)]
    orders: set[str] = set()
    runs = 0
    while len(orders) < 2 and runs < 60:
        runs += 1
        async with stock_host(listen) as host:
            orders.add(" ".join(address.split("/")[2] for address in bare(host)))
            await host.close()
    return {"wildcards": sorted(wildcards), "orders": len(orders), "runs": runs}


async def failed_bind() -> Verdict:
    """Trap 10. Two addresses, one of which is taken; then the taken one alone."""
    with taken_port() as port:
        taken = f"/ip4/127.0.0.1/tcp/{port}"
        async with stock_host([taken, "/ip4/127.0.0.1/tcp/0"]) as host:
            beside = len(bare(host))
            await host.close()
        async with stock_host([taken]) as host:
            alone = len(bare(host))
            await host.close()
    return {"raised": False, "beside_another": beside, "alone": alone}


async def shared_port() -> Verdict:
    """Trap 11. TCP and ws, both on port 0; a TCP dialer whose first segment has one byte, as js-libp2p's may have."""
    async with stock_host(["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]) as host:
        ports = {address.split("/")[4] for address in bare(host)}
        verdict = {"ports": len(ports), "slow_dialer": "waited for"}
        async with await trio.open_tcp_stream("127.0.0.1", int(min(ports))) as stream:
            await stream.send_all(b"\x13")
            with trio.move_on_after(60):
                try:
                    answer = await stream.receive_some()
                except trio.BrokenResourceError:
                    answer = b""
                verdict["slow_dialer"] = answer.decode() or "closed"
        return verdict


async def hosts_file() -> Verdict:
    """Trap 12. /dns4/localhost, which the hosts file knows and the name server (ours, for all names) does not."""
    asked: list[str] = []
    server = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await server.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            packet, client = await server.recvfrom(4096)
            query = dns.message.from_wire(packet)
            asked.extend(question.to_text() for question in query.question)
            answer = dns.message.make_response(query)
            answer.set_rcode(dns.rcode.NXDOMAIN)
            await server.sendto(answer.to_wire(), client)

    class Resolver(dns.asyncresolver.Resolver):
        """What dnspython makes of a resolv.conf that names our server."""

        def __init__(self) -> None:
            super().__init__(filename=io.StringIO("nameserver 127.0.0.1\n"))
            self.port = server.getsockname()[1]

    dns.asyncresolver.Resolver = Resolver  # type: ignore[assignment, misc]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with mini_peer() as peer, stock_host() as host:
            target = (await peer.listen()).replace("/ip4/127.0.0.1/", "/dns4/localhost/")
            try:
                await host.connect(peer_info(target))
                failed = False
            except SwarmException:
                failed = True
            accepted = len(peer.connections)
        nursery.cancel_scope.cancel()
    known = socket.gethostbyname("localhost")
    return {"hosts_file": known, "asked": sorted(set(asked)), "failed": failed, "accepted": accepted}


async def missing_transport() -> Verdict:
    """Trap 15. A host that listens on TCP only dials a healthy one over ws."""
    async with stock_host(["/ip4/127.0.0.1/tcp/0/ws"]) as target, stock_host() as host:
        [address] = target.get_addrs()
        try:
            await host.connect(peer_info(str(address)))
            error = ""
        except SwarmException as failure:
            error = str(failure)
        async with stock_host(["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0/ws"]) as other:
            await other.connect(peer_info(str(address)))
            await until(lambda: target.get_network().connections)
            return {"error": error, "with_a_ws_listener": len(target.get_network().connections)}


if __name__ == "__main__":
    main(globals())
