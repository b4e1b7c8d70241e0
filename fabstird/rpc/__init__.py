"""JSON-RPC 2.0: the methods, and how a text becomes calls and an answer. It knows no transport."""
