"""The worked example in docs/batch.md runs as printed, with the packaged model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("onnxruntime") is None and find_spec("torch") is None:
    pytest.skip("the example paints with the packaged model: pip install 'intarsia[cpu]'", allow_module_level=True)

PAGE = Path(__file__).resolve().parents[2] / "docs/batch.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[tuple[str, str, str | None]]:
    """The page's shell and Python blocks, each with the output that is printed below it."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for (kind, text), (after, shown) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind in ("sh", "python"):
            yield kind, text, shown if after == "text" else None


@pytest.mark.slow
def test_the_example_runs_as_printed(tmp_path):
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}
    found = list(examples())
    assert [kind for kind, _, _ in found] == ["sh", "sh", "sh", "sh", "python"]
    for kind, text, shown in found:
        command = ["bash", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        said = re.search(r"# exits with (\d)$", text.strip())
        assert done.returncode == (int(said[1]) if said else 0), done.stderr
        if shown is not None:
            pattern = ".*".join(map(re.escape, shown.split("…")))
            assert re.fullmatch(pattern, done.stdout), done.stdout
    assert done.stdout == "Counter() []\n"  # everything was done before
