"""Port mapping: the router at home is asked to lead connections from outside to the ports that the node listens on."""
