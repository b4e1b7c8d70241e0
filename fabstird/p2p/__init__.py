"""The peer-to-peer part of the daemon (see ARCHITECTURE.md)."""
