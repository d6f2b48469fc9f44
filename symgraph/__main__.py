"""`python -m symgraph` runs the same command line as `symgraph`."""

from __future__ import annotations

import sys

from symgraph.cli import main

if __name__ == "__main__":
    sys.exit(main())
