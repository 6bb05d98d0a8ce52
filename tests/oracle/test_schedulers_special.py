"""The schedulers that diffusers' pipelines cannot run, against its classes; and tracing its objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the oracle extra brings it")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: the oracle extra brings it")

from intarsia.errors import RequestError
from intarsia.schedulers import NoiseSchedule, Table, table, trace
from intarsia.schedulers.names import NAMES
from tests.oracle.published import SD15

# diffusers hands torch tensors to numpy functions, and numpy 2 announces that it will want newer tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = (4, 10, 21, 50)
SHAPE = (1, 2, 3, 4)
TOLERANCE = 1e-5  # diffusers keeps its levels in float32


def off_by(ours: np.ndarray, theirs: Any) -> float:
    theirs = np.asarray(theirs, dtype=np.float64)
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1.0))


@pytest.mark.parametrize("steps", STEPS)
def test_ipndm_is_diffusers_formula_on_the_models_levels(steps):
    """diffusers' class reads every output as v, and takes √(1-ᾱ) by level as its "trained betas"."""
    made = table("IPNDMScheduler", steps, prediction_type="v_prediction")
    levels = made.sigmas / np.sqrt(1 + made.sigmas**2)
    scheduler = diffusers.IPNDMScheduler(trained_betas=levels.tolist())
    scheduler.set_timesteps(steps)
    rng = np.random.default_rng(1)
    state = np.zeros((made.state_slots, *SHAPE))
    state[0] = rng.standard_normal(SHAPE)
    theirs = torch.from_numpy(state[0])
    for row, timestep in enumerate(scheduler.timesteps):
        output = rng.standard_normal(SHAPE)
        theirs = scheduler.step(torch.from_numpy(output), timestep, theirs, return_dict=False)[0]
        state = np.tensordot(made.matrix[row], np.stack([*state, output, 0 * output]), axes=1)
        # √(1 - β²) of a float32 β near 1 is what costs most here, at the noisy end.
        assert off_by(state[0], theirs) < 5e-5, f"row {row}"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", STEPS)
def test_ddim_inverse_is_diffusers_inversion_and_then_its_ddim(steps, prediction):
    made = table("DDIMInverseScheduler", steps, prediction_type=prediction)
    config = {**SD15, "prediction_type": prediction}
    config.pop("skip_prk_steps")
    up, down = (cls.from_config(config) for cls in (diffusers.DDIMInverseScheduler, diffusers.DDIMScheduler))
    up.set_timesteps(steps)
    down.set_timesteps(steps)
    visits = [(up, timestep) for timestep in up.timesteps] + [(down, timestep) for timestep in down.timesteps]
    assert len(visits) == len(made)
    rng = np.random.default_rng(1)
    state = np.zeros((made.state_slots, *SHAPE))
    state[0] = rng.standard_normal(SHAPE)
    theirs = torch.from_numpy(state[0])
    for row, (scheduler, timestep) in enumerate(visits):
        output = rng.standard_normal(SHAPE)
        theirs = scheduler.step(torch.from_numpy(output), timestep, theirs, return_dict=False)[0]
        state = np.tensordot(made.matrix[row], np.stack([*state, output, 0 * output]), axes=1)
        assert made.timesteps[row] == timestep
        assert off_by(state[0], theirs) < TOLERANCE, f"row {row}"


@pytest.mark.parametrize("steps", STEPS)
def test_karras_ve_is_diffusers_deprecated_class_where_that_can_be_driven(steps, monkeypatch):
    """Its steps, on our levels: its own reach σ = 100, where no Stable Diffusion network was trained."""
    from diffusers.schedulers.deprecated import scheduling_karras_ve as module

    made = table("KarrasVeScheduler", steps)
    levels = [*table("KarrasVeScheduler", steps).sigmas[:1], *made.sigmas[1::2]]
    scheduler = module.KarrasVeScheduler()
    scheduler.set_timesteps(steps)
    highest = float(NoiseSchedule().sigmas[-1])
    rng = np.random.default_rng(1)
    draws, calls = rng.standard_normal((steps, *SHAPE)), iter(range(steps))
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.from_numpy(draws[next(calls)]))
    outputs = rng.standard_normal((len(made), *SHAPE))
    state = np.zeros((made.state_slots, *SHAPE))
    state[0] = made.start_noise * rng.standard_normal(SHAPE)
    sample = torch.from_numpy(state[0])
    compared = 0
    for i, sigma in enumerate(levels[:steps]):
        below = float(made.sigmas[2 * i + 1]) if i + 1 < steps else 0.0
        hat_sample, hat = scheduler.add_noise_to_input(sample, float(sigma))
        if hat > highest:  # ours does not churn above the trained levels: go on from its start
            hat_sample, hat = torch.from_numpy(state[0]), float(made.sigmas[2 * i])
        assert hat == pytest.approx(made.sigmas[2 * i], rel=1e-6)
        assert off_by(state[0], hat_sample) < TOLERANCE, f"start of step {i}"
        sample, slope = scheduler.step(torch.from_numpy(-outputs[2 * i]), hat, below, hat_sample, return_dict=False)
        if below > 0:
            sample, _ = scheduler.step_correct(
                torch.from_numpy(-outputs[2 * i + 1]), hat, below, hat_sample, sample, slope, return_dict=False
            )
        for row in (2 * i, 2 * i + 1):
            if row < len(made):
                fresh = draws[i + 1] if made.uses_noise[row] else np.zeros(SHAPE)
                state = np.tensordot(made.matrix[row], np.stack([*state, outputs[row], fresh]), axes=1)
        compared += 1
    assert compared == steps
    assert off_by(state[0], sample) < TOLERANCE


TRACED_ELSEWHERE = ("DDIMInverseScheduler", "IPNDMScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler")
DRIVEN_BY_PIPELINES = tuple(name for name in NAMES if name not in TRACED_ELSEWHERE)


def outputs_of(made: Table, unit: np.ndarray, outputs: np.ndarray, noises: Any) -> np.ndarray:
    rows = iter(range(len(made)))
    return made.run(lambda x, timestep: outputs[next(rows)], unit, noises)


@pytest.mark.parametrize("name", DRIVEN_BY_PIPELINES)
def test_a_traced_object_is_our_table(name):
    scheduler = getattr(diffusers, name).from_config(SD15)
    traced, made = trace(scheduler, 10), table(name, 10)
    assert traced.state_slots <= made.state_slots
    rng = np.random.default_rng(4)
    unit, outputs, noises = (rng.standard_normal((n, 6)) for n in (1, len(made), len(made)))
    # LMS integrates numerically in diffusers, to a relative 1e-4 of each weight.
    assert off_by(outputs_of(traced, unit[0], outputs, noises), outputs_of(made, unit[0], outputs, noises)) < 1e-4
    for field in ("timesteps", "input_scale", "known_image", "known_noise", "start_noise"):
        assert off_by(np.asarray(getattr(traced, field)), getattr(made, field)) < TOLERANCE, field
    assert (traced.uses_noise == made.uses_noise).all() or name == "DDPMScheduler"  # 1e-10 of noise at the end
    assert off_by(traced.sigmas[:-1], made.sigmas[:-1]) < TOLERANCE


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_part_of_a_run_is_traced_as_our_table_of_that_strength(name):
    scheduler = getattr(diffusers, name).from_config(SD15)
    traced, made = trace(scheduler, 10, strength=0.7), table(name, 10, strength=0.7)
    rng = np.random.default_rng(4)
    unit, clean = rng.standard_normal((2, 6))
    outputs = rng.standard_normal((len(made), 6))

    def result(of: Table) -> np.ndarray:
        rows = iter(range(len(of)))
        return of.run(lambda x, timestep: outputs[next(rows)], unit, None, clean)

    assert off_by(result(traced), result(made)) < 1e-4
    assert (len(traced), traced.strength) == (len(made), 0.7)
    for field in ("timesteps", "input_scale", "known_image", "known_noise", "start_image", "start_noise"):
        assert off_by(np.asarray(getattr(traced, field)), getattr(made, field)) < TOLERANCE, field


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDIMInverseScheduler", {}),
        ("IPNDMScheduler", {}),
        ("SASolverScheduler", {}),
        ("TCDScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ],
)
def test_other_linear_objects_are_traced_too(name, settings):
    cls = getattr(diffusers, name)
    made = trace(cls.from_config({**SD15, **settings}), 8)
    assert len(made) == 8
    assert np.isfinite(made.matrix).all()
    scheduler = cls.from_config({**SD15, **settings})
    scheduler.set_timesteps(8)
    rng = np.random.default_rng(3)
    unit, outputs = rng.standard_normal(5), rng.standard_normal((8, 5))
    sample = torch.from_numpy(unit).reshape(-1, 1, 1, 1) * scheduler.init_noise_sigma
    draws = np.zeros((8, 5))
    for row, timestep in enumerate(scheduler.timesteps):
        torch.manual_seed(row)
        draws[row] = torch.randn(5, 1, 1, 1, dtype=noise_type(name)).reshape(-1).numpy()
        torch.manual_seed(row)
        output = torch.from_numpy(outputs[row]).reshape(-1, 1, 1, 1)
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
    assert off_by(outputs_of(made, unit, outputs, draws), sample.reshape(-1)) < 1e-4


def noise_type(name: str) -> torch.dtype:
    """The solvers of the DPM family draw in float32 whatever their sample is."""
    return torch.float32 if name in ("DPMSolverMultistepScheduler", "SASolverScheduler") else torch.float64


def test_tracing_leaves_torchs_generators_alone():
    torch.manual_seed(1)
    before = torch.randn(3)
    torch.manual_seed(1)
    trace(diffusers.EulerAncestralDiscreteScheduler.from_config(SD15), 4)
    assert torch.equal(torch.randn(3), before)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"clip_sample": True}, "DDIMScheduler"),
        ({"thresholding": True}, "DDIMScheduler"),
        ({"thresholding": True}, "DPMSolverMultistepScheduler"),
    ],
)
def test_what_is_not_linear_is_refused_with_its_residual(settings, name):
    scheduler = getattr(diffusers, name).from_config({**SD15, **settings})
    (setting,) = settings
    sentence = (
        rf"{name} is not linear: row \d+ is off by \d\.\de[-+]\d\d of its size; its {setting} cuts .* {setting}=False"
    )
    with pytest.raises(RequestError, match=sentence):
        trace(scheduler, 6)


def test_the_object_that_anyone_tries_first_is_refused_with_the_reason():
    """DDIM's class clips unless it is told not to, and then is a table."""
    with pytest.raises(RequestError, match="its clip_sample cuts predictions off, so make it with clip_sample=False"):
        trace(diffusers.DDIMScheduler(), 6)
    assert len(trace(diffusers.DDIMScheduler(clip_sample=False), 6)) == 6


def test_what_is_no_scheduler_is_refused():
    from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

    with pytest.raises(RequestError, match="an object with diffusers' set_timesteps and step"):
        trace(object(), 5)
    with pytest.raises(RequestError, match=r"one whose step takes \(model_output, timestep, sample\)"):
        trace(KarrasVeScheduler(), 5)
    with pytest.raises(RequestError, match="an object with diffusers' set_timesteps and step"):
        trace(diffusers.ScoreSdeVeScheduler(), 5)
    with pytest.raises(RequestError, match="steps must be"):
        trace(diffusers.DDIMScheduler.from_config(SD15), 0)
    with pytest.raises(RequestError, match=r"strength 0\.1 leaves no step of 5 to run"):
        trace(diffusers.DDIMScheduler.from_config(SD15), 5, strength=0.1)
    with pytest.raises(RequestError, match="strength must be above 0"):
        trace(diffusers.DDIMScheduler.from_config(SD15), 5, strength=0)


def test_the_default_noise_is_stable_diffusions():
    scheduler = diffusers.DDIMScheduler.from_config(SD15)
    theirs = scheduler.alphas_cumprod.double().numpy()
    assert np.abs(NoiseSchedule().alphas_cumprod / theirs - 1).max() < 1e-6
    clean = np.abs((1 - NoiseSchedule().alphas_cumprod) / (1 - theirs) - 1)
    assert clean.max() < 1e-6
    assert math.isclose(NoiseSchedule().sigmas[-1], 14.6146, abs_tol=1e-3)
