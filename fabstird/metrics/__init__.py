"""The daemon's counters, and their export to Prometheus."""
