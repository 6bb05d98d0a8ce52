"""Settings of the sampler in a request: which scheduler takes which, what they come to, and what contradicts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia.engine.plan import Plan, SamplerPlan
from intarsia.engine.sampling import table_of
from intarsia.schedulers import NAMES, table

CURVES, EVEN = {"karras", "exponential"}, {"leading", "trailing", "linspace"}
NO_CURVES = {f"{name}Scheduler" for name in ("DDPM", "DDIM", "PNDM", "DDIMInverse", "IPNDM", "LCM")}
DPM = {"DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"}
UNIPC, DEIS = "UniPCMultistepScheduler", "DEISMultistepScheduler"
VALUES: dict[str, tuple[Any, ...]] = {
    "spacing": (*EVEN, *CURVES),
    "eta": (0.5,),
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun", "logrho", "bh1", "bh2"),
    "final_sigmas_type": ("zero", "sigma_min"),
}


def taken(name: str, setting: str) -> set[Any]:
    """The values that a scheduler takes, from the papers and diffusers' classes."""
    if setting == "spacing":
        return EVEN if name in NO_CURVES else EVEN | CURVES
    if setting == "eta":
        return {0.5} if name == "DDIMScheduler" else set()
    if setting == "solver_order":
        return {1, 2, 3} if name in DPM | {UNIPC, DEIS} else set()
    if setting == "solver_type":
        forms = {UNIPC: {"bh1", "bh2"}, DEIS: {"logrho"}} | {key: {"midpoint", "heun"} for key in DPM}
        return forms.get(name, set())
    return {DEIS: {"sigma_min"}, "LCMScheduler": set()}.get(name, {"zero", "sigma_min"})


@pytest.fixture
def sampler(request_of: Callable[..., intarsia.InpaintRequest]) -> Callable[..., SamplerPlan]:
    return lambda **fields: intarsia.plan(request_of(**fields)).sampler


@pytest.mark.parametrize("setting", VALUES)
def test_a_scheduler_takes_what_means_something_for_it_and_refuses_the_rest(sampler, setting):
    for name in NAMES:
        for value in VALUES[setting]:
            if value in taken(name, setting):
                made = sampler(scheduler=name, strength=1.0, **{setting: value})
                assert dict(made.settings) == ({} if value == "karras" else {setting: value})
                assert made.karras == (value == "karras" or (setting != "spacing" and name not in NO_CURVES))
                continue
            with pytest.raises(intarsia.RequestError) as caught:
                sampler(scheduler=name, **{setting: value})
            assert caught.value.field == setting
            assert setting in str(caught.value)
            assert repr(value) in str(caught.value)
            assert name in str(caught.value)


def test_the_error_says_what_the_scheduler_takes(sampler):
    refused = {
        ("euler", "solver_order", 2): "which takes spacing and final_sigmas_type",
        ("lcm", "eta", 0.5): "which takes spacing",
        ("unipc", "solver_type", "heun"): "must be one of bh1, bh2 for UniPCMultistepScheduler, not 'heun'",
        ("deis", "final_sigmas_type", "zero"): "must be sigma_min for DEISMultistepScheduler, not 'zero'",
        ("ddim", "spacing", "wide"): "must be one of leading, trailing, linspace for DDIMScheduler, not 'wide'",
        ("euler", "spacing", "SGM Uniform"): "not 'SGM Uniform'; trailing is within 1.5 trained timesteps",
        ("dpm++", "spacing", "normal"): "not 'normal'; its linspace is not the normal spacing",
    }
    for (name, setting, value), sentence in refused.items():
        with pytest.raises(intarsia.RequestError, match=setting) as caught:
            sampler(scheduler=name, **{setting: value})
        assert sentence in str(caught.value)


@pytest.mark.parametrize("text", ["Exponential", " exponential ", "EXPONENTIAL"])
def test_a_spacing_may_be_written_as_other_programs_do(sampler, text):
    assert sampler(scheduler="dpmpp_2m_sde", spacing=text) == sampler(scheduler="DPM++ 2M SDE Exponential")
    assert sampler(scheduler="euler", spacing="Normal") == sampler(scheduler="Euler Uniform")


def test_karras_is_there_where_it_is_asked_for_or_nothing_else_is(sampler):
    assert sampler(scheduler="euler").karras
    assert not sampler(scheduler="euler", spacing="trailing").karras
    assert sampler(scheduler="euler", spacing="karras") == sampler(scheduler="euler", karras_sigmas=True)
    between = sampler(scheduler="euler", spacing="leading", karras_sigmas=True)
    assert (between.karras, between.settings) == (True, (("spacing", "leading"),))

    contradictions = [
        ({"spacing": "exponential", "karras_sigmas": True}, "karras_sigmas is true, and spacing says exponential"),
        ({"spacing": "karras", "karras_sigmas": False}, "karras_sigmas is false, and spacing says karras"),
        ({"scheduler": "Heun Exponential", "karras_sigmas": True}, "scheduler 'Heun Exponential' says exponential"),
        ({"scheduler": "Heun Exponential", "spacing": "leading"}, "spacing is 'leading', and scheduler 'Heun Exponen"),
        ({"scheduler": "DPM++ 2M SDE Heun", "solver_type": "midpoint"}, "solver_type is 'midpoint', and scheduler"),
    ]
    for fields, sentence in contradictions:
        with pytest.raises(intarsia.RequestError) as caught:
            sampler(**{"scheduler": "euler", **fields})
        assert sentence in str(caught.value)
    same = sampler(scheduler="Heun Exponential", spacing="exponential", karras_sigmas=False)
    assert same == sampler(scheduler="heun", spacing="exponential")


def test_the_plans_table_is_the_schedulers_with_these_settings(request_of):
    fields = {"scheduler": "dpm++ 2m", "solver_order": 3, "solver_type": "heun", "final_sigmas_type": "sigma_min"}
    plan = intarsia.plan(request_of(spacing="exponential", strength=0.8, steps=10, **fields))
    settings: dict[str, Any] = {name: value for name, value in fields.items() if name != "scheduler"}
    made = table("dpm++ 2m", 10, spacing="exponential", strength=0.8, prediction_type="v_prediction", **settings)
    np.testing.assert_array_equal(table_of(plan).matrix, made.matrix)
    np.testing.assert_array_equal(table_of(plan).timesteps, made.timesteps)


def test_settings_are_part_of_a_plans_hash_and_absent_where_there_are_none(request_of):
    def plan(**fields: Any) -> Plan:
        return intarsia.plan(request_of(scheduler="ddim", strength=1.0, **fields))

    plain = plan()
    assert not {"settings", "table_sha256"} & plain.to_dict()["sampler"].keys()
    plans = [plain, plan(eta=0.0), plan(eta=0.5), plan(spacing="trailing"), plan(final_sigmas_type="zero")]
    assert len({each.sha256 for each in plans}) == len(plans)
    assert json.loads(plans[2].to_json())["sampler"]["settings"] == [["eta", 0.5]]


def test_a_request_that_was_stored_is_the_same_request(request_of):
    """A server keeps all fields: what was left to its default is written out."""
    for fields in ({"scheduler": "DPM++ 2M Exponential"}, {"scheduler": "ddim"}, {"spacing": "trailing"}):
        request = request_of(**fields)
        again = intarsia.InpaintRequest.parse(request.model_dump())
        assert intarsia.plan(again) == intarsia.plan(request)


def test_settings_are_in_what_a_result_says_of_itself(engine, request_of):
    meta = engine.run(request_of(scheduler="ddim", eta=0.25, spacing="trailing")).meta
    assert (meta["eta"], meta["spacing"]) == (0.25, "trailing")
    assert "table" not in meta


def test_fresh_noise_of_ddim_is_drawn(request_of):
    tables = [table_of(intarsia.plan(request_of(scheduler="ddim", eta=eta))) for eta in (0.0, 1.0)]
    assert [made.uses_noise.any() for made in tables] == [False, True]


@pytest.mark.parametrize(("model", "says_it"), [("intarsia-tiny", True), ("intarsia-tiny-lcm", False)])
def test_only_a_model_that_is_not_distilled_is_said_to_need_it(request_of, model, says_it):
    plan = intarsia.plan(request_of(model=model, scheduler="lcm", steps=4))
    assert ("distilled" in " ".join(plan.sampler.notes)) == says_it
