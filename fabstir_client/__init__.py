"""Thin client of fabstird, the local P2P daemon."""
