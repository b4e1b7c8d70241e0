"""Peers: which are known, dialled, kept, trimmed and banned. The policy decides, and the manager carries out."""
