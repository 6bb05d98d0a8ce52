"""The torch backend on CUDA against the same backend on the CPU. Needs a GPU; skipped, with the reason, without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.gpu.needs import need_gpu

need_gpu()

import torch

import intarsia
from intarsia.schedulers import NAMES

SIZE = 256


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as cpu, intarsia.Engine("torch", "cuda") as cuda:
        yield cpu, cuda


@pytest.fixture
def ask() -> Callable[..., intarsia.InpaintRequest]:
    ramp = np.linspace(40, 200, SIZE)[:, None, None] * np.array([0.9, 0.6, 0.8]) * np.ones((1, SIZE, 1))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[60:200, 50:190] = 255

    def make(**fields: Any) -> intarsia.InpaintRequest:
        defaults = {"prompt": "a red circle", "seed": 4, "steps": 12, "strength": 1.0, "guidance_scale": 4.0}
        return intarsia.InpaintRequest(
            init_image=ramp.astype(np.uint8), mask_image=mask, width=SIZE, height=SIZE, **{**defaults, **fields}
        )

    return make


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LCMScheduler"])
def test_same_image_as_on_the_cpu(engines, ask, name):
    """float16 networks against float32 ones: the same image, not the same bits."""
    one, other = (np.asarray(engine.run(ask(scheduler=name)).generated[0], np.float64) for engine in engines)
    psnr = 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))
    # Half precision has 11 bits; over 12 guided steps that is well above 25 dB for deterministic and, since
    # the noise is the same, for stochastic schedulers.
    assert psnr > 25, f"{name}: {psnr:.1f} dB"


def test_deterministic_mode_gives_the_same_bits_batched_with_others(ask):
    requests = [ask(scheduler=name, steps=6 + place) for place, name in enumerate(NAMES[:9])]
    with intarsia.Engine("torch", "cuda", deterministic=True) as engine:
        alone = [np.asarray(engine.run(request).generated[0]) for request in requests]
        together = [np.asarray(ticket.result().generated[0]) for ticket in [engine.submit(r) for r in requests]]
    np.testing.assert_array_equal(alone, together)


def test_previews_become_the_image_that_is_drawn(engines, ask):
    """As on the CPU (tests/cpu/test_previews.py), from copies that nothing waits for while other steps are replayed."""
    bits = []
    for _ in range(3):  # launched, captured, replayed
        *events, result = engines[1].stream(ask(samples=2), preview_every=3)
        for sample in range(2):
            drawn = np.asarray(result.generated[sample].reduce(8), np.float64)[8:24, 8:23]
            last = np.asarray(events[-1].preview(sample), np.float64)[8:24, 8:23]
            psnr = 10 * np.log10(255**2 / np.mean((last - drawn) ** 2))
            assert psnr > 25, f"{psnr:.1f} dB"
        bits.append(result.drawn[0].tobytes())
    assert engines[1].run(ask(samples=2)).drawn[0].tobytes() == bits[-1]


def test_the_result_says_which_gpu(engines, ask):
    runtime = engines[1].run(ask(steps=2)).runtime
    assert runtime.device == torch.cuda.get_device_name(0)
    assert runtime.dtype == "float16"
