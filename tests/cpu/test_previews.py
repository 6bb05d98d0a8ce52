"""Previews of real networks, on both backends: close to the decoded image, each lane's own, without effect on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import intarsia
from intarsia.backends.protocol import Step
from intarsia.engine import color_maps
from intarsia.schedulers import NAMES, table
from tests.cpu.fake_capturer import FakeCapturer
from tests.cpu.test_captured_stepper import Limits, captured, eager
from tests.noise_request import noise_request
from tools.train_tiny.scenes import MEASURING, draw_scene

BACKENDS = ["torch", "onnx"]
SIZE, FACTOR = 128, 8
SMALL = {"size": 64, "rows": slice(16, 40), "columns": slice(16, 40)}


def scene_request(index: int, **fields: Any) -> tuple[intarsia.InpaintRequest, np.ndarray]:
    """A scene that the packaged model was trained on, and the latent cells that are wholly under its mask."""
    scene = draw_scene("measure", index, SIZE, MEASURING)
    mask = np.where(scene.mask, 255, 0).astype(np.uint8)
    request = intarsia.InpaintRequest(
        init_image=scene.background, mask_image=mask, prompt=scene.caption, width=SIZE, height=SIZE, seed=index,
        **{"steps": 12, **fields},
    )  # fmt: skip
    side = SIZE // FACTOR
    return request, scene.mask.reshape(side, FACTOR, side, FACTOR).all(axis=(1, 3))


def decoded(result: intarsia.Result, sample: int = 0) -> np.ndarray:
    """The decoded image, each cell's mean."""
    return np.asarray(result.generated[sample].reduce(FACTOR), np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((one - other) ** 2))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.fixture(scope="module", params=BACKENDS)
def engine(request: pytest.FixtureRequest) -> Iterator[intarsia.Engine]:
    with intarsia.Engine(request.param, "cpu") as opened:
        yield opened


@pytest.mark.parametrize("index", [0, 3, 4, 6])
def test_previews_become_the_decoded_image(engine, index):
    """Under the mask the last preview of ten scenes is 30 to 36 dB from it, the middle one 25 to 33, and the last with
    two colors exchanged below 20 in these four. What is lost is what of the decoder is not linear.
    """
    request, inside = scene_request(index)
    *events, result = engine.stream(request, preview_every=1)
    image = decoded(result)[inside]
    first, middle, last = (
        np.asarray(events[place].preview(), np.float64)[inside] for place in (0, len(events) // 2, -1)
    )
    assert psnr(last, image) > 27
    assert psnr(middle, image) > 22
    assert psnr(middle, image) > psnr(first, image)
    assert correlation(middle, image) > 0.9
    for order in ([2, 1, 0], [1, 0, 2], [0, 2, 1]):
        assert psnr(last[:, order], image) < 20, "the scene has colors, so that an exchange would be seen"


def test_images_have_the_same_bits_with_and_without_previews(engine):
    for scheduler in ("DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "ScoreSdeVeScheduler"):
        request = noise_request(**SMALL, steps=5, samples=2, scheduler=scheduler)
        *_, watched = engine.stream(request, preview_every=1)
        plain = engine.run(request)
        for one, other in zip(watched.drawn, plain.drawn, strict=True):
            np.testing.assert_array_equal(one, other)


def shown(events: Iterable[Any]) -> list[tuple[int, bytes, bytes]]:
    return [
        (event.step, event.preview(0).tobytes(), event.preview(1).tobytes()) for event in events if event.has_preview
    ]


def test_previews_are_the_same_whatever_shares_the_batches(engine):
    requests = [
        noise_request(
            **SMALL, steps=4 + place, samples=2, seed=place, scheduler=name, guidance_scale=1.0 + 3.0 * (place % 2)
        )
        for place, name in enumerate(NAMES[:5])
    ]
    alone = []
    for request in requests:
        *events, _ = engine.stream(request, preview_every=2)
        alone.append(shown(events))

    tickets = [engine.submit(request, preview_every=2) for request in requests]
    together = []
    for ticket in tickets:
        ticket.result()
        together.append(shown(ticket.progress()))
    assert alone == together
    assert len({previews[-1] for previews in alone}) == len(requests)


def test_both_backends_show_the_same():
    """Float32 in another order: a level or two, more where a large noise level multiplies the networks' difference."""
    found = {}
    for backend in BACKENDS:
        with intarsia.Engine(backend, "cpu") as engine:
            for name in ("DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"):
                for guidance in (1.0, 5.0):
                    request = noise_request(**SMALL, steps=4, scheduler=name, guidance_scale=guidance, strength=1.0)
                    *events, _ = engine.stream(request, preview_every=1)
                    previews = [np.asarray(event.preview(), np.int16) for event in events]
                    found.setdefault((name, guidance), []).append(np.stack(previews))
    for case, (one, other) in found.items():
        assert np.abs(one - other).max() <= 3, case
        assert one.std() > 5, "not flat"


@pytest.mark.parametrize("limits", [Limits(16, 2**30), Limits(1, 2**30)], ids=["kept", "evicted"])
@pytest.mark.parametrize("is_inpainting", [True, False], ids=["9 channels", "4 channels"])
def test_captured_steps_leave_the_same_to_preview_as_eager_ones(is_inpainting, limits):
    """Sample, guided output and fresh noise of each lane; also of one that made room for the batch after it."""
    tables = [table(name, 6, strength=1.0) for name in NAMES]
    guidance = [4.0 if place % 3 else 1.0 for place in range(len(tables))]
    found = []
    for case in (
        captured(limits=limits, capturer=FakeCapturer(), is_inpainting=is_inpainting),
        eager(is_inpainting=is_inpainting),
    ):
        lanes = [case.lane(made, seed, guidance=guidance[seed]) for seed, made in enumerate(tables)]
        turns = []
        for row in range(4):
            case.steps.advance([Step(lane, row, case._noise(lane, place, row)) for place, lane in enumerate(lanes)])
            for lane in lanes:
                buffer = case.steps.buffer(lane)
                fresh = buffer[-1] if lane.table.uses_noise[row] else torch.zeros_like(buffer[-1])
                turns.append(torch.stack([buffer[0], buffer[-2], fresh]))
        found.append(torch.stack(turns))
    # the same float32 operations, but for sums that have more (vanishing) terms
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-4)
    assert float(found[0].std()) > 0.1


def test_another_autoencoder_is_fitted_when_previews_are_first_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")
    from tests.random_model import write_model, write_registry

    monkeypatch.setattr(color_maps, "cache_folder", lambda: tmp_path / "cache")
    registry = write_registry(tmp_path / "w.toml", four=(write_model(tmp_path / "four", 4, "kl"), "sd15"))
    request = noise_request(**SMALL, steps=3, strength=1.0)
    with intarsia.Engine("torch", "cpu", registry) as engine:
        engine.run(request)
        assert not (tmp_path / "cache").exists()
        *events, _ = engine.stream(request, preview_every=1)
        assert len(list((tmp_path / "cache").iterdir())) == 1

    # The loop itself overwrites what such a network draws around the mask; previews show the request there.
    source = np.asarray(request.init_image, np.float64).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    inside = np.zeros(source.shape[:2], bool)
    inside[2:5, 2:5] = True
    for event in events:
        preview = np.asarray(event.preview(), np.float64)
        np.testing.assert_allclose(preview[~inside], source[~inside], atol=1)
        assert np.abs(preview[inside] - source[inside]).max() > 20
