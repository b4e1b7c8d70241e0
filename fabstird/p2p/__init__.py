"""The peer-to-peer side: the only place, but for nothing else, where libp2p is imported (see ARCHITECTURE.md)."""
