"""Every table, row by row, against diffusers' own scheduler object driven as its inpainting pipeline drives it."""

from __future__ import annotations

import copy
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the oracle extra brings it")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: the oracle extra brings it")

from intarsia.schedulers import NoiseSchedule, Table, table
from tests.oracle.published import SD15

# diffusers hands torch tensors to numpy functions, and numpy 2 announces that it will want newer tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

SDXL = {**SD15, "timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False}
STEPS = (4, 10, 21, 50)
SHAPE = (1, 2, 3, 4)

# diffusers keeps its noise levels in float32. Near the clean end σ comes from 1 - ᾱ with ᾱ ≈ 0.99915, where
# float32 has a relative error of 4e-5 in 1 - ᾱ; on a sample of unit size that is 1e-6. Its Euler and DPM
# multistep solvers also round the sample itself to float32 in each step.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One comparison: a scheduler, our arguments, and diffusers' configuration where it needs another."""

    name: str
    ours: dict[str, Any]
    theirs: dict[str, Any]


def scheduler_of(case: Case, config: dict[str, Any], prediction: str) -> Any:
    cls = getattr(diffusers, case.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls.from_config({**config, **case.theirs, "prediction_type": prediction})


class Noise:
    """Stands in for diffusers' ``randn_tensor``: hands out known noise and counts the calls."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(5)
        self.last: np.ndarray | None = None

    def __call__(self, shape: Any, **_: Any) -> Any:
        self.last = self.generator.standard_normal(tuple(shape))
        return torch.from_numpy(self.last)


class Driven:
    """diffusers' object and our table side by side, as its inpainting pipeline drives it, on random inputs."""

    def __init__(self, scheduler: Any, made: Table, strength: float, noise: Noise) -> None:
        self.scheduler, self.made, self.noise = scheduler, made, noise
        self.tolerance = promote(scheduler)
        skipped = (made.steps - min(int(made.steps * strength), made.steps)) * scheduler.order
        self.timesteps = scheduler.timesteps[skipped:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        self.rng = np.random.default_rng(7)
        self.unit, self.clean = self.rng.standard_normal(SHAPE), self.rng.standard_normal(SHAPE)
        if strength == 1:
            self.theirs = torch.from_numpy(self.unit) * scheduler.init_noise_sigma
        else:
            self.theirs = self.noised(self.timesteps[:1])
        self.state = np.zeros((made.state_slots, *SHAPE))
        self.state[0] = made.start_image * self.clean + made.start_noise * self.unit

    def noised(self, timesteps: Any) -> Any:
        return self.scheduler.add_noise(torch.from_numpy(self.clean), torch.from_numpy(self.unit), timesteps)

    def first_difference(self) -> str:
        """Empty, or the first thing that differs, with its row and by how much."""
        if len(self.timesteps) != len(self.made):
            return f"{len(self.made)} rows, diffusers has {len(self.timesteps)}"
        if problem := differs("starting latents", self.state[0], self.theirs, self.tolerance):
            return problem
        for row in range(len(self.made)):
            if problem := self.row_difference(row):
                return f"row {row}: {problem}"
        return ""

    def row_difference(self, row: int) -> str:
        made, timestep, last = self.made, self.timesteps[row], row + 1 == len(self.made)
        scaled = self.scheduler.scale_model_input(self.theirs, timestep)
        output, self.noise.last = self.rng.standard_normal(SHAPE), None
        self.theirs = self.scheduler.step(torch.from_numpy(output), timestep, self.theirs, return_dict=False)[0]
        self.theirs = self.theirs.double()
        if made.uses_noise[row] and self.noise.last is None:
            return "uses fresh noise, diffusers does not"
        fresh = np.zeros(SHAPE) if self.noise.last is None else self.noise.last
        given = made.input_scale[row] * self.state[0]
        self.state = np.tensordot(made.matrix[row], np.stack([*self.state, output, fresh]), axes=1)
        known = made.known_image[row] * self.clean + made.known_noise[row] * self.unit
        return (
            differs("timestep", made.timesteps[row], timestep, 1e-4)
            or differs("network input", given, scaled, self.tolerance)
            # 0/0 in diffusers; a step between equal levels is no step
            or ("" if last and repeats_last_level(self.scheduler) else self.sample_difference())
            or differs("known region", known, self.clean if last else self.noised(self.timesteps[row + 1 : row + 2]))
        )

    def sample_difference(self) -> str:
        return differs("sample", self.state[0], self.theirs, self.tolerance)


def promote(scheduler: Any) -> float:
    """Let solvers that divide by differences of log σ do it in float64; the tolerance that is left to them.

    In float32, as diffusers has σ, those differences alone cost 1e-5. Third order divides by their squares
    and so magnifies the rounding of σ itself too.
    """
    third = getattr(scheduler.config, "solver_order", 0) == 3
    if third or isinstance(scheduler, diffusers.DEISMultistepScheduler):
        scheduler.sigmas = scheduler.sigmas.double()
    return 2 * TOLERANCE if third else TOLERANCE


def repeats_last_level(scheduler: Any) -> bool:
    """Karras levels end at the cleanest trained one, and so does a final level of ``sigma_min``."""
    return getattr(scheduler.config, "solver_order", 0) == 3 and bool(scheduler.sigmas[-1] == scheduler.sigmas[-2])


def differs(what: str, ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> str:
    theirs = np.asarray(theirs, dtype=np.float64)
    error = float(np.max(np.abs(ours - theirs)) / max(float(np.max(np.abs(theirs))), 1.0))
    return "" if error <= tolerance else f"{what} differs by {error:.1e} (allowed {tolerance:.0e})"


def compare(monkeypatch: pytest.MonkeyPatch, case: Case, config: dict[str, Any], prediction: str) -> None:
    """Every step count and strength of one case."""
    noise = Noise()
    module = sys.modules[getattr(diffusers, case.name).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", noise)
    schedule = NoiseSchedule.from_config(config)
    fresh = scheduler_of(case, config, prediction)
    for steps in STEPS:
        for strength in (1.0, 0.7):
            # Afresh each time, since set_timesteps may change an object's own settings; a copy, since
            # KDPM2's constructor takes a fifth of a second.
            scheduler = copy.deepcopy(fresh)
            scheduler.set_timesteps(steps)
            settings = {"strength": strength, "schedule": schedule, "prediction_type": prediction, **case.ours}
            problem = Driven(scheduler, table(case.name, steps, **settings), strength, noise).first_difference()
            assert not problem, f"{case} {prediction} steps={steps} strength={strength}: {problem}"


def case(name: str, **settings: Any) -> Case:
    """A case whose settings have the same names on both sides, but for ``karras`` and ``spacing``."""
    theirs = dict(settings)
    if theirs.pop("karras", False):
        theirs["use_karras_sigmas"] = True
    spacing = theirs.pop("spacing", None)
    if spacing == "exponential":
        theirs["use_exponential_sigmas"] = True
    elif spacing:
        theirs["timestep_spacing"] = spacing
    integrates_noise = theirs.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver")
    if integrates_noise or theirs.get("predict_x0") is False:
        theirs["final_sigmas_type"] = "sigma_min"
    return Case(name, settings, theirs)


WITH_KARRAS = (
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DEISMultistepScheduler",
)
WITHOUT_KARRAS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
)
# What diffusers itself does not implement.
MISSING = {
    ("PNDMScheduler", "sample"),
    ("EulerAncestralDiscreteScheduler", "sample"),
    ("KDPM2DiscreteScheduler", "sample"),
    ("KDPM2AncestralDiscreteScheduler", "sample"),
}

# diffusers' bh1 form multiplies infinity by zero at a final level of zero.
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}

CASES = [
    *(case(name) for name in WITH_KARRAS + WITHOUT_KARRAS),
    *(case(name, karras=True) for name in WITH_KARRAS),
]
VARIANTS = [
    *(
        case("DPMSolverMultistepScheduler", algorithm_type=algorithm, solver_order=order, karras=karras)
        for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
        for order in (1, 2, 3)
        for karras in (False, True)
    ),
    case("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver"),
    case("DPMSolverMultistepScheduler", solver_type="heun"),
    case("DPMSolverMultistepScheduler", solver_type="heun", algorithm_type="dpmsolver"),
    case("DPMSolverMultistepScheduler", solver_type="heun", algorithm_type="sde-dpmsolver"),
    case("DPMSolverMultistepScheduler", solver_type="heun", algorithm_type="sde-dpmsolver++"),
    case("DPMSolverMultistepScheduler", euler_at_final=True),
    case("DPMSolverMultistepScheduler", lower_order_final=False, solver_order=3),
    *(
        case("DPMSolverSinglestepScheduler", algorithm_type=algorithm, solver_order=order, solver_type=kind)
        for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++")
        for order in (1, 2, 3)
        for kind in ("midpoint", "heun")
    ),
    *(
        case("UniPCMultistepScheduler", solver_order=order, solver_type=kind, predict_x0=data, **SIGMA_MIN)
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
        for data in (True, False)
    ),
    *(case("UniPCMultistepScheduler", lower_order_final=False, solver_order=order, **SIGMA_MIN) for order in (2, 3)),
    *(case("DEISMultistepScheduler", solver_order=order) for order in (1, 2, 3)),
    case("EulerDiscreteScheduler", final_sigmas_type="sigma_min"),
    case("EulerDiscreteScheduler", spacing="exponential"),
    case("DPMSolverMultistepScheduler", spacing="exponential"),
    case("UniPCMultistepScheduler", spacing="exponential"),
    *(
        case(name, spacing=spacing)
        for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
        for spacing in ("leading", "trailing", "linspace")
    ),
]


def label(value: Case) -> str:
    return "-".join([value.name.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in value.ours.items())])


@pytest.mark.every(4)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("wanted", CASES, ids=label)
def test_every_row_is_diffusers_row(monkeypatch: pytest.MonkeyPatch, wanted: Case, prediction: str) -> None:
    if (wanted.name, prediction) in MISSING:
        pytest.skip(f"diffusers' {wanted.name} does not implement {prediction} prediction")
    compare(monkeypatch, wanted, SD15, prediction)


@pytest.mark.every(4)
@pytest.mark.parametrize("wanted", CASES, ids=label)
def test_a_models_own_configuration_is_followed(monkeypatch: pytest.MonkeyPatch, wanted: Case) -> None:
    compare(monkeypatch, wanted, SDXL, "epsilon")


@pytest.mark.every(3)
@pytest.mark.parametrize("wanted", VARIANTS, ids=label)
def test_every_variant_of_a_solver(monkeypatch: pytest.MonkeyPatch, wanted: Case) -> None:
    compare(monkeypatch, wanted, SD15, "epsilon")


# Settings that only a model's own configuration makes; none is asked for.
OWN = [
    ({"final_sigmas_type": "sigma_min"}, "EulerDiscreteScheduler"),
    ({"final_sigmas_type": "sigma_min"}, "DPMSolverMultistepScheduler"),
    ({"final_sigmas_type": "sigma_min"}, "UniPCMultistepScheduler"),
    ({"final_sigmas_type": "sigma_min", "lower_order_final": False}, "UniPCMultistepScheduler"),
    ({"final_sigmas_type": "sigma_min", "solver_order": 3, "solver_type": "bh1"}, "UniPCMultistepScheduler"),
    ({"euler_at_final": True}, "DPMSolverMultistepScheduler"),
    ({"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, "EulerDiscreteScheduler"),
    ({"timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": True}, "DDIMScheduler"),
]


@pytest.mark.parametrize(("settings", "name"), OWN, ids=[f"{n}-{'-'.join(s)}" for s, n in OWN])
def test_settings_of_a_models_configuration_reach_the_solver(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], name: str
) -> None:
    compare(monkeypatch, Case(name, {}, {}), {**SD15, **settings}, "epsilon")
