"""``fabstir``: the command line, one module an area."""
