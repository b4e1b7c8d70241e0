"""Daemons for the tests of programs that use fabstird: real ones, and one that plays a script.

With pytest there is nothing to import: the fixtures `fabstird`, `fabstird_pair` and `scripted_fabstird` are there as
soon as this package is installed (`fabstir_client.testing.plugin`). They are plain fixtures, for tests under trio and
asyncio and for blocking ones. Elsewhere `running_daemon`, `running_pair` and `ScriptedDaemon` give the same as context
managers.
"""

from fabstir_client.testing.daemon import Daemon, DaemonFailed, Pair, running_daemon, running_pair
from fabstir_client.testing.document import NotAsDocumented
from fabstir_client.testing.scripted import ScriptedDaemon
from fabstir_client.testing.scripted_node import PEER

__all__ = [
    "PEER",
    "Daemon",
    "DaemonFailed",
    "NotAsDocumented",
    "Pair",
    "ScriptedDaemon",
    "running_daemon",
    "running_pair",
]
