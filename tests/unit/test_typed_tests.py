"""Fixtures and helpers of tests say what they take and give; a test itself takes fixtures and gives nothing."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def untyped(source: str) -> list[str]:
    """Functions, but for tests, with a parameter or a result without an annotation; and the line of each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("test_"):
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            starred = [argument for argument in (node.args.vararg, node.args.kwarg) if argument]
            wanted = [argument for argument in (*named, *starred) if argument.arg not in ("self", "cls")]
            if node.returns is None or any(argument.annotation is None for argument in wanted):
                found.append(f"{node.lineno}: {node.name}")
    return found


def test_every_fixture_and_helper_is_typed():
    by_file = {path: untyped(path.read_text(encoding="utf-8")) for path in sorted(TESTS.rglob("*.py"))}
    assert {str(path.relative_to(TESTS)): found for path, found in by_file.items() if found} == {}


def test_each_part_of_a_signature_has_to_be_annotated():
    typed = "def f(a: int, /, b: int, *c: int, d: int, **e: int) -> int: ..."
    assert untyped(typed) == []
    for name in "abcde":
        assert untyped(typed.replace(f"{name}: int", name)) == ["1: f"], name
    assert untyped(typed.replace(" -> int", "")) == ["1: f"]
    assert untyped("class A:\n    def f(self, a): ...") == ["2: f"]
    assert untyped("def test_a(b): ...") == []
