"""Raw connections: TCP and WebSocket."""
