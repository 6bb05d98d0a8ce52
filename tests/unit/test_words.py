"""Words that were replaced by the field's stand in no identifier, no file name and no glossary."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Replaced word → what is said instead.
REPLACED = {
    "colour": "color",
    "company": "batch key, batched with others",
    "contexts": "cross_kv",
    "crew": "worker pool",
    "dialect": "endpoint",
    "dialects": "endpoints",
    "ghost": "stale row",
    "ghosts": "stale rows",
    "grey": "gray",
    "halves": "branches",
    "nine": "is_inpainting",
    "pace": "run-ahead",
    "painter": "row runner",
    "picture": "image",
    "pictures": "images",
    "prove": "check_replay",
    "recorded": "captured",
    "recorder": "capturer",
    "recordings": "captured calls",
    "sieve": "done filter",
    "staged": "captured",
    "tally": "run stats",
    "told": "network inputs",
}
# The exported graphs' own input, whose name is in files that ship.
ALLOWED = {("networks", "pictures")}
# In tests: a number of channels, and files that have older names still.
ALLOWED_IN_TESTS = {
    ("test_tiny_model_layout", "nine"),
    ("test_pixels", "picture"),
    ("test_step", "halves"),
    ("test_step", "picture"),
    ("variants", "picture"),
}


def words_of(name: str) -> set[str]:
    """The words of an identifier in either spelling: ``RowRunner``, ``row_runner``."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def identifiers(tree: ast.AST) -> set[str]:
    """Every name that a module defines or uses."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def defined(tree: ast.AST) -> set[str]:
    """The names that a module chooses: not those of what it imports, nor attributes of others."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def replaced_words(
    folder: Path, names_of: Callable[[ast.AST], set[str]], allowed: set[tuple[str, str]]
) -> Iterator[tuple[str, str, str]]:
    """(stem of a file, name, word) of each replaced word in a file's name or its names, but for those allowed."""
    for path in sorted(folder.rglob("*.py")):
        names = {path.stem, *names_of(ast.parse(path.read_text(encoding="utf-8")))}
        for name in sorted(names):
            for word in words_of(name) & REPLACED.keys():
                if (path.stem, word) not in allowed:
                    yield path.stem, name, f"{word}: say {REPLACED[word]}"


def test_replaced_words_are_in_no_identifier_and_no_file_name():
    assert list(replaced_words(ROOT / "intarsia", identifiers, ALLOWED)) == []


def test_replaced_words_are_in_no_name_that_a_test_defines():
    assert list(replaced_words(ROOT / "tests", defined, ALLOWED_IN_TESTS)) == []


def test_a_test_may_use_names_of_others_and_may_not_define_them(tmp_path):
    (tmp_path / "a.py").write_text("from b import picture\nprint(picture.halves)\n")
    (tmp_path / "b.py").write_text("def one(halves): ...\nfor picture in (): ...\n")
    found = replaced_words(tmp_path, defined, set())
    assert [name for _, name, _ in found] == ["halves", "picture"]


def test_replaced_words_are_not_in_the_glossary():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    glossary = text[text.index("## Glossary") :]
    assert words_of(glossary) & REPLACED.keys() == set()


def test_a_word_in_the_middle_of_a_name_is_found():
    assert words_of("RowPainter") & REPLACED.keys() == {"painter"}
    assert words_of("_own_halves") & REPLACED.keys() == {"halves"}
    assert words_of("nineteen") & REPLACED.keys() == set()
