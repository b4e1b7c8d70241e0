"""Networks of the DHT in one process, on a virtual clock, driven by the planners of `fabstird.p2p.dht` themselves.

What decides is the product's: routing table, lookups, upkeep, stores, answers, holders, trimming. What is simulated is
what carries out: messages, dials, connections, and the coming and going of nodes. `world` has the clock and the wires,
`node` a node, `scenarios` what is measured; `make dht-sim` prints the table of docs/dht.md.
"""
