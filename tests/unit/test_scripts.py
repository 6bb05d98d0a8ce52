"""What tools, benchmarks and examples import of the repository is there, and ``--help`` runs none of them.

Their types are not checked, and most of them are run by hand, a long time after a name that they use has changed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = ("intarsia", "benchmarks", "tools", "tests")
SCRIPTS = sorted(path for folder in ("benchmarks", "tools", "examples") for path in (REPOSITORY / folder).rglob("*.py"))
# Examples are as short as they can be.
RUN = [
    path
    for path in SCRIPTS
    if path.parent.name != "examples" and 'if __name__ == "__main__":' in path.read_text("utf-8")
]


def source(module: str) -> Path | None:
    """The file of a module, or of a package; None where there is none."""
    place = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def names_of(path: Path) -> set[str]:
    """What a module binds, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each import of the repository's own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OWN:
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_a_script_imports_is_there(path):
    missing = []
    for module, name in imported(path):
        file = source(module)
        is_there = file is not None and (name in names_of(file) or source(f"{module}.{name}") is not None)
        if not is_there:
            missing.append(f"{module}.{name}")
    assert not missing


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_script_reads_its_arguments_before_it_does_anything(path):
    """Some of them write into the repository, whatever they are asked."""
    text = path.read_text("utf-8")
    assert "parse_args(" in text or "from benchmarks.run import main" in text
