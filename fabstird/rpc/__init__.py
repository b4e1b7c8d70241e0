"""JSON-RPC 2.0: what the methods are, and how a text becomes calls and an answer. Knows no transport."""
