"""QUIC v1: connections and streams over UDP, on aioquic's engine."""
