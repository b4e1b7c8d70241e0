"""Notifies systemd while the daemon runs: its status, the watchdog, reloads and the stop.

A task of the event loop feeds the watchdog. A loop that is frozen or blocked stops feeding it, and systemd ends the
process and starts another. A loop that turns is not enough: it must not be hopelessly late (`canary`), and the node
must do its work (`Node.silence`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from fabstird import systemd
from fabstird.canary import Canary
from fabstird.log.logger import get_logger
from fabstird.p2p.node import Node

log = get_logger("service")

TURN = 1.0  # seconds: the least between two changes of STATUS
SILENCE = 60.0  # seconds that the node may owe a turn; importing libp2p on a busy machine takes some
EXTENSION = 5.0  # seconds asked for in each turn while stopping


class Supervised:
    """The connection to systemd. Made by `supervised`."""

    def __init__(
        self,
        about: Callable[[], str],
        silence: Callable[[], float],
        canary: Canary,
        notify: Callable[..., bool],
        interval: float | None,
    ) -> None:
        self._about = about
        self._silence = silence
        self._canary = canary
        self._notify = notify
        self._interval = interval
        self._closing = False
        self._note = ""  # shown in addition to the node's state
        self._told = ""

    def ready(self) -> None:
        """The whole API listens."""
        self._told = self._text()
        self._notify("READY=1", systemd.status(self._told))

    def stopping(self) -> None:
        """The daemon stops; the time allowed is extended as long as the loop turns."""
        self._closing = True
        self._notify("STOPPING=1", systemd.status("stopping"), _extension())

    def reload(self, take_over: Callable[[], str]) -> None:
        """Run a reload. ``take_over`` returns what went wrong, or nothing."""
        self._notify(*systemd.reloading())
        self._note = take_over()
        self._told = self._text()
        self._notify("READY=1", systemd.status(self._told))

    async def run(self) -> None:
        """Notify systemd until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._canary.run)
            nursery.start_soon(self._tell)
            if self._interval is not None:
                nursery.start_soon(self._feed, self._interval)

    async def _tell(self) -> None:
        while True:
            await trio.sleep(TURN)
            if self._closing:
                self._notify(_extension())
            elif (text := self._text()) != self._told:
                self._told = text
                self._notify(systemd.status(text))

    async def _feed(self, interval: float) -> None:
        """Feed the watchdog three times as often as required, so that one missed ping is tolerated."""
        fed = True
        while True:
            delay, silence = self._canary.last, self._silence()
            if is_alive(delay, silence, interval):
                self._notify("WATCHDOG=1")
                fed = True
            elif fed:
                log.error("the watchdog is not fed any more", loop_delay=round(delay, 3), node_silence=round(silence))
                fed = False
            await trio.sleep(interval / 3)

    def _text(self) -> str:
        return "; ".join(part for part in (self._about(), self._note) if part)


@asynccontextmanager
async def supervised(
    about: Callable[[], str], silence: Callable[[], float], canary: Canary, *, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Supervised]:
    """Keep systemd, if it runs the daemon, informed until the context is left.

    Args:
        about: Returns the daemon's status in one line.
        silence: Returns the seconds that the node has owed a turn.
        canary: Measures how late the loop is.
        environ: The environment.
    """

    def notify(*assignments: str) -> bool:
        return systemd.notify(*assignments, environ=environ)

    supervision = Supervised(about, silence, canary, notify, systemd.watchdog_interval(environ))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run)
        yield supervision
        nursery.cancel_scope.cancel()


def is_alive(delay: float, silence: float, interval: float) -> bool:
    """Whether to feed the watchdog; times are seconds.

    Args:
        delay: How late the loop was at the last check.
        silence: How long the node has owed a turn.
        interval: The watchdog's interval.
    """
    return delay < interval / 2 and silence < SILENCE


def describe(node: Node) -> str:
    """The node's state in one line for ``systemctl status``."""
    if node.state == "failed":
        return f"the node failed: {node.error}"
    if node.state != "started":
        return f"the node is {node.state}"
    dialling, waiting = node.view.dials()
    return (
        f"{_count(node.view.peer_count(), 'peer')}, {_count(node.view.connection_count(), 'connection')}; "
        f"{_count(dialling, 'dial')} under way, {waiting} waiting"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _extension() -> str:
    return f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1_000_000)}"
