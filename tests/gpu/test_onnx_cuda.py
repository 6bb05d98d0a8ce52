"""The onnx backend on CUDA against torch on the CPU, launched and captured. Needs a GPU and onnxruntime-gpu."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gpu.needs import need_gpu

need_gpu()
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime-gpu: pip install onnxruntime-gpu")
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    pytest.skip("the installed onnxruntime has no CUDA provider", allow_module_level=True)

import intarsia
from intarsia.registry.registry import Registry
from intarsia.schedulers import NAMES

SIZE = 256


@pytest.fixture(scope="module", params=["float32", "float16"])
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The packaged graphs, which are float32 and not captured, or half-precision ones, which are."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "float16":
            for package in ("onnx", "onnxscript"):
                pytest.importorskip(package, reason=f"float16 graphs need {package}: pip install 'intarsia[export]'")
            from intarsia.export.folder import cached, export_model

            root, model = tmp_path_factory.mktemp("graphs"), Registry().find("intarsia-tiny").path
            export_model(model, cached(model, "float16", root), "float16")
            patch.setenv("INTARSIA_GRAPHS", str(root))
        yield request.param


@pytest.fixture(scope="module")
def reference() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def cuda(graphs: str) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("onnx", "cuda") as engine:
        yield engine


def ask(**fields: Any) -> intarsia.InpaintRequest:
    ramp = np.linspace(40, 200, SIZE)[:, None, None] * np.array([0.9, 0.6, 0.8]) * np.ones((1, SIZE, 1))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[60:200, 50:190] = 255
    defaults = {"prompt": "a red circle", "seed": 4, "steps": 12, "strength": 1.0, "guidance_scale": 4.0}
    given = {"init_image": ramp.astype(np.uint8), "mask_image": mask, "width": SIZE, "height": SIZE}
    return intarsia.InpaintRequest(**{**given, **defaults, **fields})


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[-1], np.float64)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LCMScheduler"])
def test_the_same_image_as_torch_on_the_cpu(cuda, reference, graphs, name):
    one, other = (drawn(engine.run(ask(scheduler=name))) for engine in (cuda, reference))
    psnr = 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))
    assert psnr > (40 if graphs == "float32" else 25), f"{name}: {psnr:.1f} dB"  # TF32 and 11 bits


def test_captured_steps_give_the_image_of_launched_ones(graphs, cuda):
    """Batches of several, tables of other lengths, shapes that come back: a replay gives what a launch would give."""
    if graphs == "float32":
        pytest.skip("float32 graphs have branches, which ONNX Runtime does not capture")
    mixed = [{"scheduler": name, "steps": 6 + place} for place, name in enumerate(NAMES[:6])]
    other = np.zeros((SIZE, SIZE), np.uint8)
    other[100:150, 30:220] = 255
    mixed += [
        {"width": 192, "height": 320},
        {"mask_image": other, "seed": 9, "samples": 2},
        {"width": 192, "height": 320, "mask_image": other, "prompt": "a blue square"},
    ]
    with intarsia.Engine("onnx", "cuda", capture="off") as launching:
        expected = [drawn(launching.run(ask(**fields))) for fields in mixed]
    for _ in range(3):
        found = [drawn(ticket.result()) for ticket in [cuda.submit(ask(**fields)) for fields in mixed]]
        for one, other in zip(found, expected, strict=True):
            assert np.sqrt(np.mean((one - other) ** 2)) < 2.0
    assert cuda.run(ask(steps=2)).runtime.capture == "on"


def test_float32_graphs_say_that_they_are_launched(graphs, cuda):
    if graphs != "float32":
        pytest.skip("about graphs with branches")
    result = cuda.run(ask(steps=2))
    assert result.runtime.capture == "off"
    assert any("not captured" in warning for warning in result.warnings)
    with (
        pytest.raises(intarsia.BackendError, match="onnxruntime failed"),
        intarsia.Engine("onnx", "cuda", capture="on") as on,
    ):
        on.run(ask(steps=2))


def test_merging_is_the_same_as_torch_alone_and_batched_with_others(cuda, reference):
    one, other = (drawn(engine.run(ask(token_merging=0.5))) for engine in (cuda, reference))
    assert np.sqrt(np.mean((one - other) ** 2)) < 16
    alone = drawn(cuda.run(ask(seed=8)))
    tickets = [cuda.submit(ask(seed=seed)) for seed in range(6, 12)]
    assert np.sqrt(np.mean((drawn(tickets[2].result()) - alone) ** 2)) < 2.0


def test_the_provider_loads_without_torch():
    """Torch brings CUDA's libraries with it; this backend has to find them where torch is not imported."""
    code = (
        "import sys, intarsia\n"
        "from intarsia.backends.onnx.device import pick_device\n"
        "from intarsia.backends.onnx.open_sessions import STEP\n"
        "print(pick_device('cuda').open(STEP.read_bytes()).get_providers()[0], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["CUDAExecutionProvider", "False"], done.stderr
