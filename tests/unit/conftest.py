"""libp2p 0.8.1 imports `websockets.legacy`, which warns that it is deprecated; elsewhere a warning fails a test."""

import warnings

from hypothesis import settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import libp2p  # noqa: F401

# The same examples in every run, and no time limit for one: the machine may be busy with other things
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
