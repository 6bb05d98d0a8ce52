"""How long waiting threads spin: limited unless the environment says otherwise, set before torch is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from intarsia import spinning


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        # set first, so that what the code under test adds is taken back too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_without_a_policy_threads_spin_for_a_moment(environment):
    spinning.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == str(spinning.COUNT)
    assert spinning.onnx_runtime_settings() == {"session.intra_op.spin_duration_us": str(spinning.MICROSECONDS)}


@pytest.mark.parametrize(("policy", "allowed"), [("PASSIVE", "0"), (" passive", "0"), ("ACTIVE", "1")])
def test_the_environments_policy_goes_before_it(environment, policy, allowed):
    environment.setenv("OMP_WAIT_POLICY", policy)
    spinning.limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    assert spinning.onnx_runtime_settings() == {"session.intra_op.allow_spinning": allowed}


def test_the_environments_count_stays(environment):
    environment.setenv("GOMP_SPINCOUNT", "7")
    spinning.limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


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
    assert done.stdout.strip() == str(spinning.COUNT)
