"""Run the command line as ``python -m bcfusion``."""

from __future__ import annotations

import sys

from bcfusion.cli import main

if __name__ == "__main__":
    sys.exit(main())
