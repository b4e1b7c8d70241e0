"""Stream multiplexing: yamux, and what it shares with QUIC."""
