"""The host: identify, ping and the table of protocol handlers, over the swarm."""
