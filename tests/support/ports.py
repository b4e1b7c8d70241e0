"""Ports that behave badly in a known way, and one that nobody takes meanwhile."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def free_port(host: str = "127.0.0.1") -> int:
    """A port for a program that needs its number before it is started. It is below those that the kernel hands out, so
    that nobody is given it meanwhile by chance."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as told:
        first = int(told.read().split()[0])
    while True:
        port = random.SystemRandom().randrange(first - 12_000, first)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue  # somebody has it
            return port


@contextmanager
def refusing_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as bound:
        bound.bind((host, 0))
        yield bound.getsockname()[1]


@contextmanager
def taken_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that somebody listens on, and does not share."""
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen(1)
        yield taken.getsockname()[1]


@contextmanager
def black_hole(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that answers no SYN: its accept queue is full and nobody empties it (Linux)."""
    with socket.create_server((host, 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        callers: list[socket.socket] = []
        try:
            while len(callers) < 64:
                callers.append(socket.socket())
                callers[-1].settimeout(0.2)
                try:
                    callers[-1].connect((host, port))
                except TimeoutError:
                    yield port
                    return
            raise OSError("this kernel's accept queue does not fill")
        finally:
            for caller in callers:
                caller.close()
