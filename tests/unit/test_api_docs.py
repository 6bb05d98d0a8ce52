"""The API reference can be made of the docstrings, without a warning."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.installed import run
from tools.api_docs import PUBLIC

REPOSITORY = Path(__file__).resolve().parents[2]

pytest.importorskip("pdoc", reason="needs pdoc: pip install -e '.[dev]'")


@pytest.mark.slow
def test_every_public_module_has_a_page(tmp_path):
    done = run([sys.executable, "-m", "tools.api_docs", str(tmp_path / "api")], cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    for module in PUBLIC:
        page = (tmp_path / "api" / f"{module.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert not re.search(r":(class|func|mod):<code>", page), f"a role of Sphinx's is left in {module}"
    assert not (tmp_path / "api" / "intarsia" / "engine").exists()
