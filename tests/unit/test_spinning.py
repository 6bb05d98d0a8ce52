"""How long waiting threads spin: limited unless the environment says otherwise, set before torch is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from intarsia import spinning


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OPENBLAS_THREAD_TIMEOUT"):
        # set first, so that what the code under test adds is taken back too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_on_an_idle_machine_threads_spin_for_a_moment(environment):
    environment.setattr(spinning, "is_busy", lambda: False)
    spinning.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == str(spinning.COUNT)
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == str(spinning.CYCLES)
    assert spinning.onnx_runtime_settings() == {"session.intra_op.spin_duration_us": str(spinning.MICROSECONDS)}


def test_on_a_busy_machine_they_sleep(environment):
    environment.setattr(spinning, "is_busy", lambda: True)
    spinning.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "0"
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "4"  # the least that OpenBLAS takes
    assert spinning.onnx_runtime_settings() == {"session.intra_op.allow_spinning": "0"}


@pytest.mark.parametrize(
    ("running", "average", "expected"), [(0, 0.4, False), (1, 1.9, False), (2, 0.0, True), (0, 2.0, True)]
)
def test_half_of_the_cores_at_work_for_others_is_busy(monkeypatch, running, average, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(spinning, "_running_elsewhere", lambda: running)
    monkeypatch.setattr(spinning, "_average", lambda: average)
    assert spinning.is_busy.__wrapped__() is expected


def test_processes_that_run_are_counted():
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    ) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        assert any(spinning._running_elsewhere() >= 1 for _ in range(100))
        busy.kill()


@pytest.mark.parametrize(
    ("policy", "allowed", "cycles"), [("PASSIVE", "0", "4"), (" passive", "0", "4"), ("ACTIVE", "1", None)]
)
def test_the_environments_policy_goes_before_it(environment, policy, allowed, cycles):
    environment.setenv("OMP_WAIT_POLICY", policy)
    spinning.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ.get("OPENBLAS_THREAD_TIMEOUT") == cycles
    assert spinning.onnx_runtime_settings() == {"session.intra_op.allow_spinning": allowed}


def test_the_environments_count_stays(environment):
    environment.setenv("GOMP_SPINCOUNT", "7")
    environment.setenv("OPENBLAS_THREAD_TIMEOUT", "9")
    spinning.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "9"


@pytest.mark.every(2)
@pytest.mark.parametrize("call", ["Engine('torch', 'cpu').close()", "Engine('onnx', 'cpu').close()"])
def test_an_engine_limits_it_before_torch_is_loaded(environment, call):
    pytest.importorskip("torch", reason="pip install 'intarsia[torch]'")
    code = (
        "import os, sys, builtins\nload = builtins.__import__\nseen = []\n"
        "def noting(name, *rest, **more):\n"
        "    if name == 'torch' and not seen:\n        seen.append(os.environ.get('GOMP_SPINCOUNT'))\n"
        "    return load(name, *rest, **more)\n"
        f"builtins.__import__ = noting\nimport intarsia\nintarsia.{call}\nimport torch\nprint(*seen)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", str(spinning.COUNT))  # by what else runs
