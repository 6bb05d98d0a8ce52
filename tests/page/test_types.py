"""The page's modules against their own JSDoc types."""

from __future__ import annotations

import subprocess

from intarsia.server.routes.page_files import PAGE_FOLDER
from tests.page.node_tools import type_checker

OPTIONS = [
    "--noEmit",
    "--allowJs",
    "--checkJs",
    "--strict",
    "--target",
    "es2022",
    "--module",
    "es2022",
    "--lib",
    "es2023,dom,dom.iterable,dom.asynciterable",
]


def test_the_modules_are_typed():
    command = [*type_checker(), *OPTIONS, *map(str, sorted(PAGE_FOLDER.glob("*.js")))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")
