"""``python -m fabstir_client`` is the ``fabstir`` command."""

import sys

from fabstir_client.cli import main

sys.exit(main())
