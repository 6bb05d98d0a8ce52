"""Where a child process finds this very package, wherever it is run from."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["python_path"]


def python_path() -> str:
    """A ``PYTHONPATH`` with this package's folder in front of what is inherited."""
    package = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(filter(None, (package, inherited)))
