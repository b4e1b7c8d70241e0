"""The swarm: links, dials, names, and connections through relays."""
