"""Whether this node answers others, where ``dht.mode`` is "auto". Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir_client.api.dht import DhtMode


@dataclass(frozen=True, slots=True)
class Signs:
    """What is known about our reachability.

    Attributes:
        announces: The operator has configured where this node can be reached.
        confirmed: What AutoNAT found; None where it has found nothing.
        sign: A peer has dialled us by itself, or sees us at an address of our own, so there is no address translation.
    """

    announces: bool
    confirmed: bool | None
    sign: bool = False


def decide(mode: DhtMode, signs: Signs) -> DhtMode:
    """The mode from now on. The operator's word counts most, then AutoNAT's, and a mere sign only until AutoNAT has
    spoken. Only a denial turns a server into a client again."""
    if mode == "client":
        return "server" if signs.announces or signs.confirmed or (signs.sign and signs.confirmed is None) else "client"
    return "client" if not signs.announces and signs.confirmed is False else "server"
