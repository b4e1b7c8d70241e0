"""The transports: how a text reaches `fabstird.rpc` and its answer and events go back. Each is thin."""
