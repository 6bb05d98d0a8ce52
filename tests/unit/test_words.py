"""Words that were replaced by the field's stand in no identifier, no file name and no glossary."""

from __future__ import annotations

import ast
import re
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


def test_replaced_words_are_in_no_identifier_and_no_file_name():
    wrong = []
    for path in sorted((ROOT / "intarsia").rglob("*.py")):
        for name in {path.stem, *identifiers(ast.parse(path.read_text(encoding="utf-8")))}:
            for word in words_of(name) & REPLACED.keys():
                if (path.stem, word) not in ALLOWED:
                    wrong.append(f"{path.relative_to(ROOT)}: {name} ({word}: say {REPLACED[word]})")
    assert wrong == []


def test_replaced_words_are_not_in_the_glossary():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    glossary = text[text.index("## Glossary") :]
    assert words_of(glossary) & REPLACED.keys() == set()


def test_a_word_in_the_middle_of_a_name_is_found():
    assert words_of("RowPainter") & REPLACED.keys() == {"painter"}
    assert words_of("_own_halves") & REPLACED.keys() == {"halves"}
    assert words_of("nineteen") & REPLACED.keys() == set()
