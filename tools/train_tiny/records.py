"""Logs as JSON lines, and files that are replaced as a whole."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch


def log(path: Path, **record: Any) -> None:
    """Append one record to a JSON-lines file and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({**record, "clock": round(time.time())})
    with path.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def save_atomic(state: Any, path: Path) -> None:
    """torch.save under another name, then rename: a killed run leaves the former checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)
