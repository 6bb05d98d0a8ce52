"""Every command and every Python block of README and docs runs as it is printed, or is named here with a reason."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run_intarsia
from tests.tiny_files import checkpoint, write
from tests.unit.endpoint_table import MINIMAL

pytest.importorskip("onnxruntime", reason="pip install 'intarsia[cpu]'")

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES += [*sorted((REPOSITORY / "docs" / "models").glob("*.md")), REPOSITORY / "examples" / "README.md"]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(intarsia|make|pip|python|curl|docker) ")

# Pages whose blocks another test runs, in an order and with files of their own.
OF_OTHER_TESTS = {
    "docs/adding-a-backend.md": "tests/unit/test_adding_pages.py",
    "docs/adding-a-scheduler.md": "tests/unit/test_adding_pages.py",
    "docs/batch.md": "tests/batch/test_docs.py",
    "docs/models/README.md": "tests/unit/test_models_guide.py",
    "docs/schedulers.md": "tests/cpu/test_schedulers_page.py",
    "examples/README.md": "tests/unit/test_examples.py",
}

# Commands that are not run here, by how they begin.
NOT_RUN = {
    "make ": "installs; .ci/run calls it",
    "pip install": "installs",
    "docker ": "builds an image; said in docs/operations.md where it was not built",
    "curl ": "needs a server; tests/server has the same calls",
    "intarsia serve": "does not end; tests/server starts servers",
    "intarsia export": "takes minutes; tests/cpu/test_onnx_export.py",
    "python -m benchmarks": "takes minutes, or needs a GPU; tests/unit/test_bench.py",
}

# Python blocks that need what no test has, by a line of theirs.
PYTHON_NOT_RUN = {
    "from modelslab_py.core.client import Client": "tests/server/test_real_clients.py runs the SDK against a server",
    "import hashlib, hmac": "tests/server/test_webhooks.py checks the same signature",
    '>>> dict(result.ran["options"])["memory"]': "an output beside its command",
}


def commands(page: Path) -> Iterator[str]:
    """The command lines of a page, without comments, continued lines joined."""
    for language, body in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in ("", "sh"):
            for line in body.replace("\\\n", " ").splitlines():
                if _COMMAND.match(line):
                    yield line


def python_blocks(page: Path) -> Iterator[str]:
    for language, body in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            yield body


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages speak of: an image, a mask, requests, and a downloads folder."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:44, 20:44] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asked = {**MINIMAL, "model_id": "intarsia-tiny", "width": 64, "height": 64, "steps": 2}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    (tmp_path / "Downloads").mkdir()
    write(tmp_path / "Downloads" / "dreamshaper.safetensors", checkpoint())
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _named(pages: list[Path]) -> list[str]:
    return [page.relative_to(REPOSITORY).as_posix() for page in pages]


def _with(blocks: Callable[[Path], Iterator[str]]) -> list[str]:
    """Pages that have such blocks and no test of their own."""
    names = _named([page for page in PAGES if any(blocks(page))])
    return [name for name in names if name not in OF_OTHER_TESTS]


@pytest.mark.parametrize("name", _with(commands))
def test_a_pages_commands_run(name, folder):
    environment = dict(os.environ)
    for line in commands(REPOSITORY / name):
        if line.startswith(tuple(NOT_RUN)):
            continue
        program, *arguments = shlex.split(line, comments=True)
        assert program == "intarsia", line
        arguments = [argument.replace("~", str(folder)) for argument in arguments]
        done = run_intarsia(arguments, cwd=folder, environment=environment)
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("name", _with(python_blocks))
def test_a_pages_python_runs(name, folder):
    for block in python_blocks(REPOSITORY / name):
        if not any(line in block for line in PYTHON_NOT_RUN):
            exec(compile(block, name, "exec"), {"__name__": "documented"})  # the repository's own text


def test_no_exception_is_left_that_no_page_needs():
    lines = [line for page in PAGES for line in commands(page)]
    blocks = [block for page in PAGES for block in python_blocks(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert [line for line in PYTHON_NOT_RUN if not any(line in block for block in blocks)] == []
    assert set(OF_OTHER_TESTS) <= set(_named(PAGES))
    assert [test for test in OF_OTHER_TESTS.values() if not (REPOSITORY / test).is_file()] == []
