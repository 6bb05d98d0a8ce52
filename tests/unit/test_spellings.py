"""Samplers by the names of other programs, and what a name says beside the scheduler."""

from __future__ import annotations

import re

import numpy as np
import pytest

import intarsia
from intarsia import schedulers
from intarsia.engine.plan import SamplerPlan
from intarsia.schedulers import NAMES, Sampler, resolve, resolve_documented, resolve_sampler

MULTI, SINGLE, SDE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "sde-dpmsolver++"


def said(
    scheduler: str, spacing: str | None = None, algorithm_type: str | None = None, solver_type: str | None = None
) -> Sampler:
    return Sampler(scheduler=scheduler, spacing=spacing, algorithm_type=algorithm_type, solver_type=solver_type)


# Names as the programs print them: A1111's list of samplers, ComfyUI's, k-diffusion's functions, diffusers' classes.
SPELLINGS = {
    "Euler": said("EulerDiscreteScheduler"),
    "Euler a": said("EulerAncestralDiscreteScheduler"),
    "LMS": said("LMSDiscreteScheduler"),
    "LMS Karras": said("LMSDiscreteScheduler", "karras"),
    "Heun": said("HeunDiscreteScheduler"),
    "DPM2": said("KDPM2DiscreteScheduler"),
    "DPM2 a": said("KDPM2AncestralDiscreteScheduler"),
    "DPM2 Karras": said("KDPM2DiscreteScheduler", "karras"),
    "DPM2 a Karras": said("KDPM2AncestralDiscreteScheduler", "karras"),
    "DPM++ 2M": said(MULTI),
    "DPM++ 2M Karras": said(MULTI, "karras"),
    "DPM++ 2M SDE": said(MULTI, None, SDE),
    "DPM++ 2M SDE Karras": said(MULTI, "karras", SDE),
    "DPM++ 2M SDE Exponential": said(MULTI, "exponential", SDE),
    "dpmpp_2m_sde_exponential": said(MULTI, "exponential", SDE),
    "DPM++ 2M SDE Heun": said(MULTI, None, SDE, "heun"),
    "DPM++ 2M SDE Heun Exponential": said(MULTI, "exponential", SDE, "heun"),
    "dpmpp_2m_sde_heun_gpu": said(MULTI, None, SDE, "heun"),
    "DPM++ 2M Exponential": said(MULTI, "exponential"),
    "Euler a Exponential": said("EulerAncestralDiscreteScheduler", "exponential"),
    "Euler Uniform": said("EulerDiscreteScheduler", "linspace"),
    "heun_normal": said("HeunDiscreteScheduler", "linspace"),
    "DDIM trailing": said("DDIMScheduler", "trailing"),
    "DPM++ SDE": said(SINGLE, None, SDE),
    "DPM++ SDE Karras": said(SINGLE, "karras", SDE),
    "DDIM": said("DDIMScheduler"),
    "PLMS": said("PNDMScheduler"),
    "UniPC": said("UniPCMultistepScheduler"),
    "LCM": said("LCMScheduler"),
    "euler_ancestral": said("EulerAncestralDiscreteScheduler"),
    "dpm_2": said("KDPM2DiscreteScheduler"),
    "dpm_2_ancestral": said("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m": said(MULTI),
    "dpmpp_2m_karras": said(MULTI, "karras"),
    "dpmpp_2m_sde": said(MULTI, None, SDE),
    "dpmpp_2m_sde_gpu": said(MULTI, None, SDE),
    "dpmpp_sde": said(SINGLE, None, SDE),
    "dpmpp_sde_gpu": said(SINGLE, None, SDE),
    "uni_pc": said("UniPCMultistepScheduler"),
    "k_euler_ancestral": said("EulerAncestralDiscreteScheduler"),
    "sample_dpmpp_2m": said(MULTI),
    "sample_euler_ancestral": said("EulerAncestralDiscreteScheduler"),
    "dpm++2m": said(MULTI),
    "dpm++_2m_karras": said(MULTI, "karras"),
    "EulerAncestral": said("EulerAncestralDiscreteScheduler"),
    "EulerAncestralDiscrete": said("EulerAncestralDiscreteScheduler"),
    "DPMSolverMultistep": said(MULTI),
    "euler-ancestral-discrete": said("EulerAncestralDiscreteScheduler"),
    "KarrasVe": said("KarrasVeScheduler"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_name_of_another_program_means_a_scheduler_and_settings(name):
    for spelling in (name, name.lower(), f"  {name} "):
        assert resolve_sampler(spelling) == resolve_documented(spelling) == SPELLINGS[name]
    if SPELLINGS[name] == said(SPELLINGS[name].scheduler):
        assert resolve(name) == SPELLINGS[name].scheduler


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_diffusers_with_and_without_their_last_word(name):
    short = name.removesuffix("Scheduler")
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", short).lower()
    assert {resolve_sampler(each) for each in (name, short, snake)} == {said(name)}


UNKNOWN = {
    "eulr": "; did you mean EulerDiscreteScheduler?",
    "UniPCMultistepSchedular": "; did you mean UniPCMultistepScheduler?",
    "DPM++ 2S a Karras": "; did you mean DPMSolverSinglestepScheduler?",
    "karras": "; that is a spacing of noise levels, not a sampler: spacing takes it",
    "exponential": "; that is a spacing of noise levels, not a sampler: spacing takes it",
    "sgm_uniform": "; that is a spacing of noise levels, not a sampler: trailing is within 1.5 trained timesteps",
    "ddim_uniform": "; that is a spacing of noise levels, not a sampler: leading is",
    "eulr exponential": "; did you mean EulerDiscreteScheduler?",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_that_is_none_is_answered_with_what_was_probably_meant(name):
    with pytest.raises(intarsia.RequestError) as caught:
        resolve_sampler(name)
    assert str(caught.value).startswith("scheduler must be one of DDPMScheduler")
    assert UNKNOWN[name] in str(caught.value)


ABSENT = {
    "DPM++ 2M SGM Uniform": "not 'sgmuniform'; trailing is within 1.5 trained timesteps of SGM's uniform spacing",
    "Euler Simple": "not 'simple'; trailing is the simple spacing where the steps divide the trained timesteps",
    "Euler Beta": "not 'beta'; there is no beta spacing",
    "Euler Align Your Steps": "not 'alignyoursteps'; there are no spacings of Align Your Steps",
    "dpmpp_2m normal": "not 'normal'; its linspace is not the normal spacing",
    "DDIM Karras": "spacing must be one of leading, trailing, linspace for DDIMScheduler, not 'karras'",
    "LCM Exponential": "spacing must be one of leading, trailing, linspace for LCMScheduler, not 'exponential'",
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_spacing_that_the_scheduler_has_not_is_refused_by_its_name(name):
    with pytest.raises(intarsia.RequestError) as caught:
        resolve_sampler(name)
    assert str(caught.value).startswith(f"scheduler {name!r} is ")
    assert ABSENT[name] in str(caught.value)
    assert caught.value.field == "scheduler"


# As the programs compute them, in trained timesteps of 1,000: A1111's modules/sd_schedulers.py, ComfyUI's samplers.py.
THEIRS = {
    "linspace": lambda n: np.linspace(999, 0, n),
    "trailing": lambda n: [999 - int(i * 1000 / n) for i in range(n)],
    "leading": lambda n: np.arange(1, 1000, 1000 // n)[::-1],
}


@pytest.mark.parametrize("spacing", THEIRS)
def test_spacings_of_others_that_are_ours(spacing):
    """Normal or uniform is linspace; simple is trailing and DDIM's uniform leading, where the steps divide 1,000."""
    for steps in (10, 20, 50):
        made = schedulers.table("euler", steps, spacing=spacing)
        np.testing.assert_allclose(made.timesteps, THEIRS[spacing](steps), atol=1e-9)


def test_sgms_uniform_spacing_is_near_trailing():
    gaps = [
        np.abs(np.linspace(999, 0, steps + 1)[:-1] - schedulers.table("euler", steps, spacing="trailing").timesteps)
        for steps in range(2, 151)
    ]
    assert 0.9 < max(gap.max() for gap in gaps) <= 1.5


def test_dpmpp_sde_takes_k_diffusions_steps():
    """N steps of A1111's DPM++ SDE are 2N - 1 here: it evaluates twice in each but the last.

    Lu et al. 2022, DPM-Solver++ (arXiv 2211.01095), the SDE's step of order 2 with r = 1/2 in λ = -log σ, as
    k-diffusion has it: in σ-space, x' = e^(-2h) x + (1 - e^(-2h)) D + σ' √(1 - e^(-2h)) noise, to the middle with D at
    the start, then all the way with D in the middle. Levels that are even in λ put the middle at every second one.
    """
    count = 4
    sampler = resolve_sampler("DPM++ SDE Exponential")
    made = schedulers.table(
        sampler.scheduler, 2 * count - 1, spacing=sampler.spacing, algorithm_type=sampler.algorithm_type
    )
    rng = np.random.default_rng(0)
    noises = rng.standard_normal((len(made), 5))
    unit = rng.standard_normal(5)

    def denoised(x: np.ndarray, sigma: float) -> np.ndarray:
        return np.tanh(x / (1 + sigma))

    def moved(x: np.ndarray, image: np.ndarray, sigma: float, target: float, noise: np.ndarray) -> np.ndarray:
        kept = (target / sigma) ** 2
        return kept * x + (1 - kept) * image + target * np.sqrt(1 - kept) * noise

    x = unit * np.hypot(1, made.sigmas[0])
    for step in range(count - 1):
        sigma, middle, target = made.sigmas[2 * step : 2 * step + 3]
        np.testing.assert_allclose(middle, np.sqrt(sigma * target))
        half = moved(x, denoised(x, sigma), sigma, middle, noises[2 * step])
        x = moved(x, denoised(half, middle), sigma, target, noises[2 * step + 1])
    expected = denoised(x, made.sigmas[-2])

    rows = iter(made.sigmas)

    def network(sample: np.ndarray, timestep: float) -> np.ndarray:
        sigma = next(rows)
        exploding = sample * np.hypot(1, sigma)
        return (exploding - denoised(exploding, sigma)) / sigma

    np.testing.assert_allclose(made.run(network, unit, noises), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["DPM fast", "DPM adaptive", "dpmpp_3m_sde", "Restart", "res_multistep", "", "?", "a"])
def test_a_sampler_that_there_is_not_is_not_taken_for_another(name):
    with pytest.raises(intarsia.RequestError, match="scheduler must be one of"):
        resolve_sampler(name)


def test_a_name_with_settings_is_no_name_of_a_table():
    with pytest.raises(
        intarsia.RequestError, match="is DPMSolverMultistepScheduler with spacing karras: give them apart"
    ):
        intarsia.schedulers.table("DPM++ 2M Karras", 5)


def test_what_a_name_says_is_what_the_plan_has(request_of):
    def sampler(**fields: object) -> SamplerPlan:
        return intarsia.plan(request_of(**fields)).sampler

    said = sampler(scheduler="DPM++ 2M SDE Karras")
    asked = sampler(scheduler=MULTI, karras_sigmas=True, algorithm_type=SDE)
    assert said == asked == sampler(scheduler="DPM++ 2M SDE Karras", algorithm_type="dpmsolver+++")
    assert sampler(scheduler="DPM++ 2M SDE", karras_sigmas=False).karras is False
    with pytest.raises(intarsia.RequestError, match=r"karras_sigmas is false, and scheduler 'LMS Karras' says karras"):
        sampler(scheduler="LMS Karras", karras_sigmas=False)
    with pytest.raises(intarsia.RequestError, match=r"algorithm_type is 'dpmsolver', and scheduler .* says sde-dpm"):
        sampler(scheduler="dpmpp_2m_sde", algorithm_type="dpmsolver")


def test_karras_is_no_remark_where_nobody_asked_for_it(request_of):
    assert intarsia.plan(request_of(scheduler="ddim")).sampler.notes == ()
    (note,) = intarsia.plan(request_of(scheduler="ddim", karras_sigmas=True)).sampler.notes
    assert note.startswith("karras sigmas were not applied")
