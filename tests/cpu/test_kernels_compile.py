"""Every kernel compiles for a GPU, none being there; what chooses between a kernel and its reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'inlay[torch]'")

from inlay.backends.torch.counting import count
from inlay.errors import BackendError
from inlay.kernels import launch
from inlay.kernels.geglu import geglu, geglu_reference
from inlay.kernels.groupnorm import Norm, group_norm
from inlay.kernels.launch import Kernel, fused_wanted, pick_kernels
from inlay.kernels.layernorm import add_layer_norm
from inlay.kernels.matcher import match, merge
from inlay.kernels.residual import residual
from inlay.models.layers import GatedProjection, GroupNorm, LayerNorm, use_kernels


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
        "_add", "_average", "_gate", "_langevin_rows", "_nearest", "_normalise", "_paste", "_pick", "_rank", "_step",
        "_to_levels",
    }  # fmt: skip
    # groupnorm in its three modes, layernorm with and without a sum; the step three times
    assert done.stdout.count(" _normalise") == 5
    assert done.stdout.count(" _step") == 3


def test_another_size_of_picture_compiles_nothing_new(monkeypatch):
    """A kernel is compiled for each set of constants: seconds, if those of all norms changed with the size."""
    asked = []
    monkeypatch.setattr(
        Kernel, "launch", lambda kernel, _grid, *_, **constants: asked.append((kernel.function.__name__, constants))
    )

    def asked_for(height, width):
        asked.clear()
        ones = torch.ones(96)
        x = torch.zeros(2, 96, height, width).to(memory_format=torch.channels_last)
        group_norm(x, Norm(32, ones, ones, silu=True), torch.zeros(2, 96), fused=True)
        residual(x, x, ones, fused=True)
        tokens, index = torch.zeros(2, height * width, 96), torch.arange(height * width)[None]
        add_layer_norm(tokens, tokens, ones, ones, fused=True)
        geglu(tokens, fused=True)
        matched = match(tokens, index[:, 99:], index[:, :99], 50, fused=True)
        merge(tokens, *matched, index[:, 99:], index[:, :99], fused=True)
        return list(asked)

    first = asked_for(20, 20)
    assert len(first) == 8
    assert all(asked_for(*size) == first for size in ((33, 17), (96, 80), (128, 129)))


def test_a_cpu_takes_the_reference_unless_asked(monkeypatch):
    monkeypatch.setattr(Kernel, "launch", lambda *_, **__: pytest.fail("the kernel was launched"))
    packed = torch.linspace(-3, 3, 12).view(2, 6)
    assert torch.equal(geglu(packed), geglu_reference(packed))
    assert not fused_wanted(None, packed, None)
    assert fused_wanted(True, packed)


@pytest.mark.parametrize(
    ("choice", "device", "fused"),
    [
        ("auto", "cpu", False),
        ("plain", "cpu", False),
        ("auto", "meta", True),
        ("plain", "meta", False),
        ("fused", "meta", True),
    ],
)
def test_what_a_session_takes(choice, device, fused):
    assert pick_kernels(choice, torch.device(device)) is fused


def test_kernels_that_cannot_be_had_are_named(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="kernels must be auto, fused or plain, not 'fast'"):
        pick_kernels("fast", cpu)
    with pytest.raises(BackendError, match="fused kernels run on a CUDA device, not on a CPU"):
        pick_kernels("fused", cpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "An Old Card")
    with pytest.raises(BackendError, match=r"need compute capability 7\.0, which An Old Card has not"):
        pick_kernels("auto", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert pick_kernels("auto", gpu)
    monkeypatch.setattr(launch, "find_spec", lambda _: None)
    for choice in ("auto", "fused"):
        with pytest.raises(BackendError, match=r"need triton, which is not installed: .* or ask for plain kernels"):
            pick_kernels(choice, gpu)
    assert not pick_kernels("plain", gpu)


def test_plain_kernels_are_kept_out_of_a_whole_network():
    with torch.device("meta"):
        layers = torch.nn.ModuleList([GroupNorm(2, 4, eps=1e-5, silu=True), LayerNorm(4), GatedProjection(4, 8)])
        x, tokens = torch.empty(1, 4, 3, 3), torch.empty(1, 9, 4)

    def ran(fused):
        use_kernels(layers, fused)
        return set(count(lambda: (layers[0](x), layers[1](tokens), layers[2](tokens))).operations)

    layers.requires_grad_(False)
    ours = {"group_norm", "layer_norm", "geglu"}
    assert ran(True) >= ours
    assert ran(None) >= ours
    assert not ran(False) & ours
    layers.requires_grad_(True)
    with torch.enable_grad():
        use_kernels(layers, None)
        assert layers[1](tokens)[1].requires_grad, "what is trained has a backward pass"


def test_a_missing_triton_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    kernel = Kernel(lambda: None)
    with pytest.raises(BackendError, match="need triton, which is not installed: pip install"):
        kernel.launch((1,), torch.zeros(1))
