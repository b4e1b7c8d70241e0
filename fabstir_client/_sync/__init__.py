"""The blocking client: the twin of `fabstir_client._async`."""
