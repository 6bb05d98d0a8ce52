"""``python -m benchmarks``: measure the cases, or count what there is to compute (``--floor``)."""

from __future__ import annotations

import sys

from benchmarks.run import main

if __name__ == "__main__":
    sys.exit(main())
