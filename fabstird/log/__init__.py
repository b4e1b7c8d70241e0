"""structlog, set up once, and the processing of each entry into a line.

structlog imports rich if it is installed, for tracebacks that this log writes itself: a twentieth of the time until the
node is started. So structlog is imported here as if rich were not installed; later imports of rich work.
"""

import sys

if "rich" not in sys.modules and "structlog" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # importing a name that is None fails
    try:
        import structlog as structlog
    finally:
        del sys.modules["rich"]
