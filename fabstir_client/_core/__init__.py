"""The client without I/O: requests, answers, cursors, and discovery of the daemon."""
