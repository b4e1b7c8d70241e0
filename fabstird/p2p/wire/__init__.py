"""Encodings: multistream-select, length-prefixed messages, multiaddrs."""
