"""Every kernel compiles for a GPU, none being there; what chooses between a kernel and its reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

import intarsia.kernels.geglu as geglu_module
from benchmarks.op_count import count
from intarsia.errors import BackendError
from intarsia.execution import Execution
from intarsia.kernels import launch
from intarsia.kernels.geglu import geglu, geglu_reference
from intarsia.kernels.launch import launching, pick_kernels, runs_fused
from intarsia.models.layers import GatedProjection, GroupNorm, LayerNorm, use_kernels

ROOT = Path(__file__).parents[2]


def run(module: str, cache: Path, *arguments: str) -> list[str]:
    """What a module prints that has Triton to itself, uninterpreted."""
    pytest.importorskip("triton", reason="needs triton, which there is for Linux alone: pip install 'intarsia[dev]'")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.{module}", *arguments],
        env={**kept, "TRITON_CACHE_DIR": str(cache)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("widths", ["a choice", "all"])
def test_every_kernel_compiles_to_what_a_gpu_runs_well(tmp_path, widths):
    """Reads as wide as there are, and next to nothing in local memory, in whatever walks over feature maps."""
    found = {}
    for line in run("compile_all", tmp_path, widths):
        _, name, *numbers = line.split()
        found.setdefault(name, []).append(dict(number.split("=") for number in numbers))
    assert set(found) == {
        "quantize_kernel", "langevin_kernel", "step_kernel", "geglu_kernel", "geglu_float8_kernel",
        "group_norm_kernel", "layer_norm_kernel", "merge_kernel", "nearest_kernel", "rank_kernel",
        "pick_kernel", "paste_kernel", "to_levels_kernel", "residual_kernel",
    }  # fmt: skip
    walkers = ("quantize_kernel", "geglu_kernel", "geglu_float8_kernel", "group_norm_kernel", "layer_norm_kernel")
    for name in (*walkers, "residual_kernel", "merge_kernel"):
        assert {each["load"] for each in found[name]} == {"16"}, name
        assert max(int(each["spilled"]) for each in found[name]) <= 16, name
    half, brain, *full = found["nearest_kernel"]
    assert (half["load"], half["spilled"]) == (brain["load"], brain["spilled"]) == ("16", "0")
    assert len(full) == (widths == "all")
    assert all(int(each["registers"]) <= 255 for each in full)


@pytest.mark.slow
def test_another_size_or_batch_compiles_nothing_new(tmp_path):
    """A fifth of a second for each kernel, in the middle of a run, if its constants went by size or by lanes."""
    first, *others = (json.loads(line) for line in run("variants", tmp_path))
    assert len(others) == 3
    assert len({line.split()[0] for line in first["asked"]}) == 12, "every kernel but those of e4m3"
    for other in others:
        assert other["asked"] == first["asked"], f"{other['case']} beside {first['case']}"


def test_a_triton_that_fails_is_named():
    errors = pytest.importorskip("triton.errors", reason="needs triton, which there is for Linux alone")
    for failure in (errors.TritonError("no such instruction\nmore"), subprocess.CalledProcessError(1, "gcc")):
        message = r"triton failed on kernel geglu: .*; plain kernels do with"
        with pytest.raises(BackendError, match=message) as caught, launching("geglu", torch.zeros(1)):
            raise failure
        assert "\n" not in str(caught.value)


def test_a_cpu_takes_the_reference_unless_asked(monkeypatch):
    monkeypatch.setattr(geglu_module, "launching", lambda *_: pytest.fail("the kernel was launched"))
    packed = torch.linspace(-3, 3, 12).view(2, 6)
    assert torch.equal(geglu(packed), geglu_reference(packed))
    assert not runs_fused(None, packed, None)
    assert runs_fused(True, packed)


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
        Execution(kernels="fast")
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

    def ran(fused: bool | None) -> set[str]:
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
    monkeypatch.delitem(sys.modules, "intarsia.kernels.geglu_triton", raising=False)
    with pytest.raises(BackendError, match="need triton, which is not installed: pip install"):
        geglu(torch.zeros(1, 2), fused=True)
