"""Tools of the npm registry that some tests use where they are installed: axe-core and TypeScript's compiler.

```make page-tools``` installs them beside the virtual environment; ``INTARSIA_NODE_MODULES`` names another folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

__all__ = ["axe_script", "type_checker"]


def _folder() -> Path:
    return Path(os.environ.get("INTARSIA_NODE_MODULES") or Path(sys.prefix) / "page-tools" / "node_modules")


def _installed(path: str) -> Path:
    found = _folder() / path
    if not found.is_file():
        pytest.skip(f"needs {path.split('/')[0]} of the npm registry: make page-tools")
    return found


def axe_script() -> Path:
    """axe-core as one script."""
    return _installed("axe-core/axe.min.js")


def type_checker() -> list[str]:
    """TypeScript's compiler, as the beginning of a command."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    return [node, str(_installed("typescript/bin/tsc"))]
