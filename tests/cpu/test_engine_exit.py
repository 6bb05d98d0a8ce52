"""A process that ends with requests in flight in native code, which must not end it with SIGABRT."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.processes import BEGIN

EXIT = """
engine = intarsia.Engine(sys.argv[1], "cpu")
tickets = [engine.submit(request(seed, steps=150, width=192, height=192, prompt="x")) for seed in range(4)]
next(tickets[0].progress())
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("backend", "package"), [("onnx", "onnxruntime"), pytest.param("torch", "torch", marks=pytest.mark.slow)]
)
def test_the_scripts_own_exit_code_stays(backend, package):
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BEGIN + EXIT, backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (7, "")
