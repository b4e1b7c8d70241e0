"""Streams to and from peers on users' own protocols: who handles which, and bytes between them and programs."""
