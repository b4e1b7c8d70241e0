"""The Fabstir scheme on top of the DHT: nodes that serve a model."""
