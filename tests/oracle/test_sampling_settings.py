"""Pictures with settings of the sampler, and with tables of one's own, beside diffusers' pipeline with the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the oracle needs diffusers: pip install 'intarsia[oracle]'")

import diffusers
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from PIL import Image

import intarsia
from intarsia import schedulers
from intarsia.engine.noise import NoiseStream
from tools.train_tiny.scenes import MEASURING, draw_scene

# diffusers hands torch tensors to numpy functions, and numpy 2 announces that it will want newer tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SIZE, SEED, STEPS = 64, 21, 7
EULER, MULTI, SINGLE = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
SDE = "sde-dpmsolver++"

# Fields of a request, the class of diffusers, and its configuration.
CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"scheduler": "euler", "spacing": "leading"}, EULER, {"timestep_spacing": "leading"}),
    ({"scheduler": "euler", "spacing": "trailing"}, EULER, {"timestep_spacing": "trailing"}),
    ({"scheduler": "euler", "spacing": "exponential"}, EULER, {"use_exponential_sigmas": True}),
    ({"scheduler": "dpm++ 2m", "spacing": "linspace"}, MULTI, {"timestep_spacing": "linspace"}),
    (
        {"scheduler": "heun", "spacing": "leading", "karras_sigmas": True},
        "HeunDiscreteScheduler", {"timestep_spacing": "leading", "use_karras_sigmas": True},
    ),
    ({"scheduler": "DPM++ 2M Exponential"}, MULTI, {"use_exponential_sigmas": True}),
    (
        {"scheduler": "dpmpp_2m_sde", "spacing": "exponential"},
        MULTI, {"algorithm_type": SDE, "use_exponential_sigmas": True},
    ),
    (
        {"scheduler": "DPM++ 2M SDE Heun Karras"},
        MULTI, {"algorithm_type": SDE, "solver_type": "heun", "use_karras_sigmas": True},
    ),
    ({"scheduler": "DPM++ SDE", "karras_sigmas": False}, SINGLE, {"algorithm_type": SDE}),
    ({"scheduler": "dpm++ 2m", "solver_order": 3, "karras_sigmas": False}, MULTI, {"solver_order": 3}),
    (
        {"scheduler": "unipc", "spacing": "leading", "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        "UniPCMultistepScheduler",
        {"timestep_spacing": "leading", "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ),
    (
        {"scheduler": "deis", "solver_order": 3, "karras_sigmas": False},
        "DEISMultistepScheduler", {"solver_order": 3},
    ),
    ({"scheduler": "ddim", "eta": 0.6}, "DDIMScheduler", {}),
    # diffusers' DDIM steps to another level than it evaluates next unless the steps divide 1,000.
    ({"scheduler": "ddim", "eta": 1.0, "spacing": "trailing", "steps": 5}, "DDIMScheduler",
     {"timestep_spacing": "trailing"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[intarsia.Engine]:
    with intarsia.Engine("torch", "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def pipeline(engine: intarsia.Engine) -> StableDiffusionInpaintPipeline:
    made = StableDiffusionInpaintPipeline.from_pretrained(
        engine.registry.find("intarsia-tiny").path, torch_dtype=torch.float32
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def config_of_model(pipeline: StableDiffusionInpaintPipeline) -> dict[str, Any]:
    return dict(pipeline.scheduler.config)


SCENE = draw_scene("measure", 7, 256, MEASURING)
IMAGE, MASK = (np.asarray(Image.fromarray(each).resize((SIZE, SIZE))) for each in (SCENE.background, SCENE.mask))


def ours(engine: intarsia.Engine, **fields: Any) -> np.ndarray:
    request = intarsia.InpaintRequest(
        init_image=IMAGE, mask_image=MASK, prompt=SCENE.caption, seed=SEED, width=SIZE, height=SIZE,
        guidance_scale=4.0, clip_skip=1, **fields,
    )  # fmt: skip
    return np.asarray(engine.run(request).generated[0], np.float64)


def theirs(pipeline: Any, monkeypatch: pytest.MonkeyPatch, scheduler: Any, steps: int, eta: float) -> np.ndarray:
    """Of diffusers' pipeline, with the noise of our seed: at the start, then in the scheduler's steps."""
    stream = NoiseStream(SEED)

    def drawn() -> torch.Tensor:
        return torch.from_numpy(stream.draw((4, SIZE // 8, SIZE // 8)))[None]

    starting, module = drawn(), sys.modules[type(scheduler).__module__]
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *args, **kwargs: starting.clone())
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: drawn())
    pipeline.scheduler = scheduler
    made = pipeline(
        image=Image.fromarray(IMAGE), mask_image=Image.fromarray(MASK), prompt=SCENE.caption, width=SIZE, height=SIZE,
        num_inference_steps=steps, strength=1.0, guidance_scale=4.0, eta=eta, output_type="np",
    )  # fmt: skip
    return np.asarray(made.images[0] * 255, np.float64)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR in dB."""
    return float(10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9)))


@pytest.mark.every(4)
@pytest.mark.parametrize(("fields", "name", "config"), CASES, ids=lambda value: str(value)[:60])
def test_a_setting_gives_the_image_that_it_gives_in_diffusers(
    engine, pipeline, config_of_model, monkeypatch, fields, name, config
):
    steps = fields.get("steps", STEPS)
    scheduler = getattr(diffusers, name).from_config(config_of_model, **config)
    expected = theirs(pipeline, monkeypatch, scheduler, steps, fields.get("eta", 0.0))
    made = ours(engine, strength=1.0, **{"steps": steps, **fields})
    # Ours is rounded to 8 bits, which alone leaves 58.9 dB.
    assert likeness(made, expected) >= 50


def test_a_traced_object_of_diffusers_gives_diffusers_image(engine, pipeline, config_of_model, monkeypatch):
    """One whose levels no field of a request gives: DPM-Solver's own, even in λ."""
    scheduler, traced = (
        diffusers.DPMSolverMultistepScheduler.from_config(config_of_model, use_lu_lambdas=True) for _ in range(2)
    )
    table = schedulers.trace(traced, STEPS)
    expected = theirs(pipeline, monkeypatch, scheduler, STEPS, 0.0)
    assert likeness(ours(engine, table=table), expected) >= 50
    assert likeness(ours(engine, table=schedulers.table_to_json(table)), expected) >= 50
