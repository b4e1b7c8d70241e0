"""The Kademlia DHT, ``/ipfs/kad/1.0.0`` (libp2p specification, kad-dht). ADR 17 says why it is our own.

Pure, without I/O, clock or libp2p: `messages`, `routing`, `lookup`, `records`, `keys`, `server`. `engine` carries out.
"""
