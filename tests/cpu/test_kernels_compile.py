"""Every kernel compiles for a GPU, none being there; what chooses between a kernel and its reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'inlay[torch]'")

from inlay.errors import BackendError
from inlay.kernels.geglu import geglu, geglu_reference
from inlay.kernels.launch import Kernel, fused_wanted


def test_every_kernel_compiles(tmp_path):
    pytest.importorskip("triton", reason="needs triton, which there is for Linux alone: pip install 'inlay[dev]'")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_all"],
        env={**kept, "TRITON_CACHE_DIR": str(tmp_path)}, cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {
        "_gate", "_langevin_rows", "_normalise", "_paste", "_step", "_to_levels",
    }  # fmt: skip
    # groupnorm in its three modes, layernorm; the step three times
    assert done.stdout.count(" _normalise") == 4
    assert done.stdout.count(" _step") == 3


def test_a_cpu_takes_the_reference_unless_asked(monkeypatch):
    monkeypatch.setattr(Kernel, "launch", lambda *_, **__: pytest.fail("the kernel was launched"))
    packed = torch.linspace(-3, 3, 12).view(2, 6)
    assert torch.equal(geglu(packed), geglu_reference(packed))
    assert not fused_wanted(None, packed, None)
    assert fused_wanted(True, packed)


def test_a_missing_triton_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    kernel = Kernel(lambda: None)
    with pytest.raises(BackendError, match="need triton, which is not installed: pip install"):
        kernel.launch((1,), torch.zeros(1))
