"""``python -m fabstir_client`` is the ``fabstir`` command."""

from fabstir_client.cli.entry import main

if __name__ == "__main__":
    main()
