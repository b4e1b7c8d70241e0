"""What keeps the API from being served."""


class BindError(Exception):
    """An endpoint of the API cannot be bound; the message says which, why, and what to do."""
