"""Tunnels: they connect peers' streams on a protocol to a program here, and programs here to a peer."""
