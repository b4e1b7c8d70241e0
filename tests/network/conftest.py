"""libp2p 0.8.1 imports `websockets.legacy`, which warns that it is deprecated; elsewhere a warning fails a test."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401
