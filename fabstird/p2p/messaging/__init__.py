"""Messages on users' own protocols."""
