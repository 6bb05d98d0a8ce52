"""Many requests of mixed shapes in one process: memory, descriptors, threads and temporary files stay what they are.

The curves over thousands of requests are `python -m benchmarks.soak`'s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")

# What resident memory may grow by after the warm-up, in MiB, with what malloc holds free given back: fragments. Buffers
# kept for one lane of 64x64 pixels are 0.1 MiB, so 100 of them are seen; one ONNX Runtime engine that stays is 65 MiB.
NOISE, NOISE_OF_MODELS = 8.0, 40.0

PACKAGES = {"onnx": "onnxruntime", "torch": "torch"}


def points(tmp_path: Path, backend: str, count: int, *options: Any) -> list[dict[str, Any]]:
    """What a process holds after each twentieth of the requests."""
    if backend in PACKAGES and find_spec(PACKAGES[backend]) is None:
        pytest.skip(f"needs {PACKAGES[backend]}")
    temporary, path = tmp_path / "temporary", tmp_path / "points.json"
    temporary.mkdir()
    # Few shapes, so that each backend has met all of them in the warm-up: what it keeps by shape is bounded elsewhere.
    size = ["--smallest", "64", "--largest", "72"]
    command = [sys.executable, "-m", "benchmarks.soak", backend, "--trim", "--requests", str(count), "--json"]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(path), *size, *options], env=environment, capture_output=True, text=True, timeout=290
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def assert_flat(points: list[dict[str, Any]], warm: int, noise: float = NOISE) -> None:
    """From ``warm`` requests on."""
    first, *later = [point for point in points if point["requests"] >= warm]
    assert len(later) >= 5
    for name in ("descriptors", "threads", "temporary"):
        assert {point[name] for point in later} == {first[name]}, name
    growth = [round(point["resident_mib"] - first["resident_mib"], 1) for point in later]
    assert max(growth) <= noise, growth


@pytest.mark.every(2)
@pytest.mark.parametrize(("backend", "count", "warm"), [("null", 300, 50), ("onnx", 150, 50)])
def test_requests(tmp_path, backend, count, warm):
    assert_flat(points(tmp_path, backend, count), warm)


@pytest.mark.parametrize(
    ("backend", "count", "warm"), [("null", 60, 20), pytest.param("onnx", 10, 4, marks=pytest.mark.slow)]
)
def test_opening_and_closing(tmp_path, backend, count, warm):
    assert_flat(points(tmp_path, backend, count, "--reopen"), warm, NOISE_OF_MODELS)


@pytest.mark.slow
def test_a_long_time_on_torch(tmp_path):
    assert_flat(points(tmp_path, "torch", 300), 50)


@pytest.mark.slow
def test_opening_and_closing_on_torch(tmp_path):
    assert_flat(points(tmp_path, "torch", 20, "--reopen"), 8, NOISE_OF_MODELS)
