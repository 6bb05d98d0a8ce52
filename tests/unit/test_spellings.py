"""Samplers by the names of other programs, and what a name says beside the scheduler."""

from __future__ import annotations

import re

import pytest

import intarsia
from intarsia.engine.plan import SamplerPlan
from intarsia.schedulers import NAMES, Sampler, resolve, resolve_documented, resolve_sampler

MULTI, SINGLE, SDE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "sde-dpmsolver++"
# Names as the programs print them: A1111's list of samplers, ComfyUI's, k-diffusion's functions, diffusers' classes.
SPELLINGS = {
    "Euler": Sampler("EulerDiscreteScheduler"),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "LMS Karras": Sampler("LMSDiscreteScheduler", True),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "DPM2": Sampler("KDPM2DiscreteScheduler"),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "DPM2 Karras": Sampler("KDPM2DiscreteScheduler", True),
    "DPM2 a Karras": Sampler("KDPM2AncestralDiscreteScheduler", True),
    "DPM++ 2M": Sampler(MULTI),
    "DPM++ 2M Karras": Sampler(MULTI, True),
    "DPM++ 2M SDE": Sampler(MULTI, False, SDE),
    "DPM++ 2M SDE Karras": Sampler(MULTI, True, SDE),
    "DPM++ SDE": Sampler(SINGLE, False, SDE),
    "DPM++ SDE Karras": Sampler(SINGLE, True, SDE),
    "DDIM": Sampler("DDIMScheduler"),
    "PLMS": Sampler("PNDMScheduler"),
    "UniPC": Sampler("UniPCMultistepScheduler"),
    "LCM": Sampler("LCMScheduler"),
    "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler"),
    "dpm_2": Sampler("KDPM2DiscreteScheduler"),
    "dpm_2_ancestral": Sampler("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m": Sampler(MULTI),
    "dpmpp_2m_karras": Sampler(MULTI, True),
    "dpmpp_2m_sde": Sampler(MULTI, False, SDE),
    "dpmpp_2m_sde_gpu": Sampler(MULTI, False, SDE),
    "dpmpp_sde": Sampler(SINGLE, False, SDE),
    "dpmpp_sde_gpu": Sampler(SINGLE, False, SDE),
    "uni_pc": Sampler("UniPCMultistepScheduler"),
    "k_euler_ancestral": Sampler("EulerAncestralDiscreteScheduler"),
    "sample_dpmpp_2m": Sampler(MULTI),
    "sample_euler_ancestral": Sampler("EulerAncestralDiscreteScheduler"),
    "dpm++2m": Sampler(MULTI),
    "dpm++_2m_karras": Sampler(MULTI, True),
    "EulerAncestral": Sampler("EulerAncestralDiscreteScheduler"),
    "EulerAncestralDiscrete": Sampler("EulerAncestralDiscreteScheduler"),
    "DPMSolverMultistep": Sampler(MULTI),
    "euler-ancestral-discrete": Sampler("EulerAncestralDiscreteScheduler"),
    "KarrasVe": Sampler("KarrasVeScheduler"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_name_of_another_program_means_a_scheduler_and_settings(name):
    for spelling in (name, name.lower(), f"  {name} "):
        assert resolve_sampler(spelling) == SPELLINGS[name]
    if SPELLINGS[name] == Sampler(SPELLINGS[name].scheduler):
        assert resolve(name) == resolve_documented(name) == SPELLINGS[name].scheduler


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_diffusers_with_and_without_their_last_word(name):
    short = name.removesuffix("Scheduler")
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", short).lower()
    assert {resolve_sampler(each) for each in (name, short, snake)} == {Sampler(name)}


UNKNOWN = {
    "eulr": "; did you mean EulerDiscreteScheduler?",
    "UniPCMultistepSchedular": "; did you mean UniPCMultistepScheduler?",
    "DPM++ 2S a Karras": "; did you mean DPMSolverSinglestepScheduler?",
    "karras": "; that is a spacing of noise levels, not a sampler",
    "sgm_uniform": "; that is a spacing of noise levels, not a sampler",
    "DPM++ 2M Exponential": "; requests have no exponential spacing",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_that_is_none_is_answered_with_what_was_probably_meant(name):
    with pytest.raises(intarsia.RequestError) as caught:
        resolve_sampler(name)
    assert str(caught.value).startswith("scheduler must be one of DDPMScheduler")
    assert UNKNOWN[name] in str(caught.value)


@pytest.mark.parametrize("name", ["DPM fast", "DPM adaptive", "dpmpp_3m_sde", "Restart", "res_multistep", "", "?", "a"])
def test_a_sampler_that_there_is_not_is_not_taken_for_another(name):
    with pytest.raises(intarsia.RequestError, match="scheduler must be one of"):
        resolve_sampler(name)


def test_a_name_with_settings_is_no_name_of_a_table():
    with pytest.raises(intarsia.RequestError, match="is DPMSolverMultistepScheduler with karras True: give them apart"):
        intarsia.schedulers.table("DPM++ 2M Karras", 5)


def test_what_a_name_says_is_what_the_plan_has(request_of):
    def sampler(**fields: object) -> SamplerPlan:
        return intarsia.plan(request_of(**fields)).sampler

    said = sampler(scheduler="DPM++ 2M SDE Karras")
    asked = sampler(scheduler=MULTI, karras_sigmas=True, algorithm_type=SDE)
    assert said == asked
    assert sampler(scheduler="DPM++ 2M SDE", karras_sigmas=False).karras is False
    with pytest.raises(intarsia.RequestError, match=r"karras_sigmas is false, and scheduler 'LMS Karras' says Karras"):
        sampler(scheduler="LMS Karras", karras_sigmas=False)
    with pytest.raises(intarsia.RequestError, match=r"algorithm_type is 'dpmsolver', and scheduler .* says sde-dpm"):
        sampler(scheduler="dpmpp_2m_sde", algorithm_type="dpmsolver")


def test_karras_is_no_remark_where_nobody_asked_for_it(request_of):
    assert intarsia.plan(request_of(scheduler="ddim")).sampler.notes == ()
    (note,) = intarsia.plan(request_of(scheduler="ddim", karras_sigmas=True)).sampler.notes
    assert note.startswith("karras sigmas were not applied")
