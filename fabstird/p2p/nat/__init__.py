"""Reaching this node from outside: AutoNAT and reservations at relays."""
