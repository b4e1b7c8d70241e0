"""Discovery of peers in the local network (libp2p specification, discovery/mdns)."""
