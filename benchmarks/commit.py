"""Which commit a tree is of, with or without git: `HASH+CHANGED_FILES`."""

from __future__ import annotations

import os
import subprocess

from benchmarks.tables import ROOT

VARIABLE = "INTARSIA_COMMIT"
"""Names the commit where the tree came without git, and goes before what git says: ``HASH`` or ``HASH+CHANGED``."""


def commit_of_tree() -> tuple[str, int | None]:
    """Commit and how many files differ from it. Nobody having said, the commit is empty; a count not said is None."""
    told = os.environ.get(VARIABLE, "").strip()
    if told:
        commit, _, changed = told.partition("+")
        return commit, int(changed) if changed.isdigit() else None
    commit = said("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not commit:
        return "", None
    return commit, len(said("git", "-C", str(ROOT), "status", "--porcelain").splitlines())


def said(*command: str) -> str:
    """What a command prints, nothing where it is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
