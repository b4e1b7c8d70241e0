"""fabstird: a local peer-to-peer daemon on libp2p, driven over JSON-RPC."""

from fabstir_client._version import __version__

__all__ = ["__version__"]
