"""The Kademlia DHT, ``/ipfs/kad/1.0.0`` (libp2p specification, kad-dht). ADR 17 says why it is our own.

The modules that decide are pure, without I/O, clock or libp2p: `messages`, `keys`, `routing`, `upkeep`, `lookup`,
`density`, `findings`, `server`, `values`, `providers`, `holders`, `mode`, `heard`. `engine`, `serving` and `announcing`
carry out.
"""
