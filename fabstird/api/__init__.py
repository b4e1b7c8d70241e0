"""The transports: each takes a caller's text to `fabstird.rpc`, and sends answers and events back. Each is thin."""
