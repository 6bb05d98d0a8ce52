"""The onnx backend against the torch backend on the CPU: the same plan gives the same image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

import torch

import intarsia
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.graphs import find_graphs
from intarsia.execution import Execution
from intarsia.models.loading import load_vae
from intarsia.schedulers import NAMES
from tools.train_tiny.scenes import MEASURING, draw_scene

SIZE = 128
# Float32 on both sides, products and convolutions in another order: a level or so here and there.
ALIKE = 45.0


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as torch, intarsia.Engine("onnx", "cpu") as onnx:
        yield torch, onnx


@pytest.fixture(scope="module")
def onnx(engines: tuple[intarsia.Engine, intarsia.Engine]) -> intarsia.Engine:
    return engines[1]


@pytest.fixture(scope="module")
def usual(onnx: intarsia.Engine, ask: Callable[..., intarsia.InpaintRequest]) -> np.ndarray:
    """What nothing but the defaults gives."""
    return drawn(onnx.run(ask()))


@pytest.fixture(scope="module")
def ask() -> Callable[..., intarsia.InpaintRequest]:
    scene = draw_scene("measure", 3, SIZE, MEASURING)

    def make(**fields: Any) -> intarsia.InpaintRequest:
        defaults = {"prompt": scene.caption, "steps": 4, "strength": 1.0, "guidance_scale": 4.0, "seed": 11}
        size = {"width": SIZE, "height": SIZE}
        given = {"init_image": scene.background, "mask_image": scene.mask}
        return intarsia.InpaintRequest(**{**defaults, **given, **size, **fields})

    return make


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0], np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))


@pytest.mark.every(3)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_image_as_torch(engines, ask, name):
    one, other = (drawn(engine.run(ask(scheduler=name))) for engine in engines)
    assert one.std() > 5
    assert psnr(one, other) >= ALIKE, f"{name}: {psnr(one, other):.1f} dB"


VARIED = [
    {"guidance_scale": 1.0},
    {"strength": 0.5, "steps": 8},
    {"negative_prompt": "a blue circle", "clip_skip": 1},
    {"clip_skip": 5},
    {"masked_content": "noise", "strength": 0.6, "steps": 8},
    {"width": 96, "height": 160},
    {"width": 72, "height": 136},
    {"prompt": "a green star, " * 40},
    {"prompt": "Émile's 42 – 'quoted'\t\n  ☃", "karras_sigmas": False},
]


@pytest.mark.parametrize("fields", VARIED, ids=[str(sorted(fields)) for fields in VARIED])
def test_every_part_of_a_request_reaches_the_image_as_it_does_in_torch(engines, ask, usual, fields):
    one, other = (engine.run(ask(**fields)) for engine in engines)
    assert psnr(drawn(one), drawn(other)) >= ALIKE
    assert one.warnings == other.warnings
    assert not np.array_equal(drawn(other), usual)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (8, 8), (9, 14)])
def test_the_autoencoder_is_torchs_up_to_every_border(onnx, size):
    """Its graphs compose convolutions, and compute borders apart; only the order of sums is another."""
    folder = onnx.registry.find(None).path
    vae = load_vae(folder / "vae", torch.device("cpu"), torch.float32)
    found, device = find_graphs(folder, ("float32",)), Device("cpu")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, vae.latent_channels, *size, generator=generator)
    images = torch.rand(1, 3, *(side * vae.factor for side in size), generator=generator) * 2 - 1
    for graph, name, given, expected in (
        ("vae_decoder", "latents", latents, vae.decode),
        ("vae_encoder", "pictures", images, vae.encode),
    ):
        (made,) = device.open(found.read(graph), found.weights).run(None, {name: given.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(made), expected(given), atol=2e-5, rtol=0)


def test_an_image_does_not_depend_on_what_it_is_batched_with(onnx, ask):
    names = NAMES[:9:2]
    requests = [ask(scheduler=name, steps=4 + place % 3, samples=1 + place % 2) for place, name in enumerate(names)]
    alone = [onnx.run(request) for request in requests]
    together = [ticket.result() for ticket in [onnx.submit(request) for request in requests]]
    for one, other in zip(alone, together, strict=True):
        assert [image.tobytes() for image in one.generated] == [image.tobytes() for image in other.generated]
    assert all(result.runtime.deterministic for result in together)


def test_sample_i_is_the_image_of_seed_plus_i(onnx, ask):
    several = onnx.run(ask(samples=2, seed=40))
    for image, seed in zip(several.generated, several.seeds, strict=True):
        assert image.tobytes() == onnx.run(ask(seed=seed)).generated[0].tobytes()


def test_the_result_says_what_ran(onnx, ask):
    runtime = onnx.run(ask(steps=1)).runtime
    assert (runtime.backend, runtime.device, runtime.dtype) == ("onnx", "cpu", "float32")
    assert dict(runtime.options)["provider"] == "CPUExecutionProvider"
    assert "onnxruntime" in dict(runtime.versions)


def test_outside_the_mask_every_byte_is_the_inputs(onnx, ask):
    request = ask(mask_blur=0)
    kept = np.asarray(request.mask_image) == 0
    out = np.asarray(onnx.run(request).images[0])
    np.testing.assert_array_equal(out[kept], np.asarray(request.init_image)[kept])
    assert (out[~kept] != np.asarray(request.init_image)[~kept]).mean() > 0.5


def test_progress_and_cancellation_between_steps(onnx, ask, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "intarsia.backends.onnx.session.OnnxSession.decode", lambda self, states: decoded.append(states)
    )
    ticket = onnx.submit(ask(steps=150))
    steps = ticket.progress()
    assert next(steps).steps == 150
    ticket.cancel()
    began = time.monotonic()
    with pytest.raises(intarsia.Cancelled):
        ticket.result(timeout=60)
    assert time.monotonic() - began < 60
    assert decoded == []


def test_the_safety_checker_decides_as_torchs_does(engines, onnx, ask):
    from intarsia.backends.onnx.backend import OnnxBackend
    from intarsia.backends.torch.backend import TorchBackend
    from tools.train_safety.pictures import KINDS, draw_example

    folder = onnx.registry.part("safety", "intarsia-tiny-safety").path
    images = [draw_example("measure", index, kind).picture for kind in KINDS for index in range(3)]
    images += [np.concatenate([each, each[:, ::-1]], axis=1) for each in images[:2]]  # several windows
    found = [kind("cpu", Execution()).open_checker(folder).check(images) for kind in (OnnxBackend, TorchBackend)]
    assert found[0] == found[1]
    assert 2 < sum(found[0]) < len(images)
    assert onnx.run(ask(safety_checker=True, steps=2)).nsfw == engines[0].run(ask(safety_checker=True, steps=2)).nsfw


def test_what_it_cannot_do_is_refused_by_name(ask):
    for arguments, sentence in (({"kernels": "fused"}, "fused kernels"), ({"capture": "on"}, "captured steps")):
        with (
            intarsia.Engine("onnx", "cpu", **arguments) as engine,
            pytest.raises(intarsia.BackendError, match=f"backend onnx cannot run intarsia-tiny with {sentence}"),
        ):
            engine.run(ask())
