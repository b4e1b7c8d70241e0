"""Security of connections: keys, peer ids, and the Noise and TLS handshakes."""
