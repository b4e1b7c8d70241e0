"""The vocabulary of the API, one module an area. The daemon imports this and nothing else of the client."""
