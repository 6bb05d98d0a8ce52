"""The scripts in examples/ run, in processes of their own."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.installed import run

if find_spec("onnxruntime") is None and find_spec("torch") is None:
    pytest.skip("the examples paint with the packaged model: pip install 'intarsia[cpu]'", allow_module_level=True)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What a run prints among other things, and the images that it leaves behind.
RUNS = {
    "library": (["step 8 of 8", "seed: 7"], ["result.png"]),
    "documented_request": (['"status": "success"', "error: width must be an integer between 64 and 1024"], ["*.png"]),
    "batch": (["{'ok': 2, 'error': 1}", "olive: io: ", "['maroon.png', 'navy.png', 'olive.png']"], ["out/olive.png"]),
    "compare_schedulers": (["HeunDiscreteScheduler                       15"], ["UniPCMultistepScheduler.png"]),
}


def test_every_example_is_run_and_listed():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(RUNS) | {"server_client"}  # which tests/server runs
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}.py]({name}.py)" in page for name in names)


SLOW = ("batch", "compare_schedulers")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in RUNS]
)
def test_an_example_runs(name, tmp_path):
    lines, images = RUNS[name]
    done = run([sys.executable, str(EXAMPLES / f"{name}.py"), "made"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace("{'error': 1, 'ok': 2}", "{'ok': 2, 'error': 1}")  # by which row is done first
    for line in lines:
        assert line in printed
    for image in images:
        assert list((tmp_path / "made").glob(image)), image
