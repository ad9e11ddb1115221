"""`python -m adapterhub.core`: the commands, where the client (whose `adapterhub` shows them too) is not installed."""

from __future__ import annotations

import sys

from adapterhub.core.cli import main

if __name__ == "__main__":
    sys.exit(main())
