"""Tables without an oracle: what must be true of every documented scheduler, and what bad input gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from intarsia.errors import RequestError, WeightsError
from intarsia.schedulers import ALIASES, NAMES, NoiseSchedule, Table, catalogue, info, resolve, table
from intarsia.schedulers.solvers import SOLVERS

SHAPE = (4, 6, 5)
CURVED = [name for name in NAMES if SOLVERS[name].curves]
# These end at the cleanest trained level, σ = 0.029, and so leave that much noise in an exact run.
ENDS_ABOVE_ZERO = ("DDIMScheduler", "PNDMScheduler", "DEISMultistepScheduler")


class ExactNetwork:
    """Knows the image: returns exactly the noise (or v, or image) that is in each sample it is given."""

    def __init__(self, made: Table, clean: np.ndarray, prediction: str) -> None:
        self.sigmas, self.clean, self.prediction, self.row = made.sigmas, clean, prediction, 0
        self.first_epsilon = None

    def __call__(self, x: np.ndarray, timestep: float) -> np.ndarray:
        sigma = self.sigmas[self.row]
        self.row += 1
        alpha, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        epsilon = (x - alpha * self.clean) / noise
        if self.first_epsilon is None:
            self.first_epsilon = epsilon
        return {"epsilon": epsilon, "v_prediction": alpha * epsilon - noise * self.clean, "sample": self.clean}[
            self.prediction
        ]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_knows_the_image_ends_at_it(name, karras, prediction):
    rng = np.random.default_rng(2)
    clean, unit = rng.standard_normal(SHAPE), rng.standard_normal(SHAPE)
    for steps in (4, 10, 50):
        for strength in (1.0, 0.7):
            if name == "PNDMScheduler" and prediction == "v_prediction":
                continue  # PLMS as in diffusers mixes v of several levels, which do not belong to one noise
            if strength < 1 and name in ("PNDMScheduler", "LMSDiscreteScheduler"):
                continue  # as in diffusers they start up wrongly in the middle of a schedule: see docs/schedulers.md
            made = table(name, steps, karras=karras, strength=strength, prediction_type=prediction)
            network = ExactNetwork(made, clean, prediction)
            final = made.run(network, unit, lambda row: rng.standard_normal(SHAPE), clean)
            sigma = made.sigmas[-1]
            wanted = clean
            if name in ENDS_ABOVE_ZERO:
                wanted = (clean + sigma * network.first_epsilon) / math.sqrt(1 + sigma**2)
            # LCM keeps 0.25 / (10 t)² of its noisy input: 2e-5 at its last timestep of 4 steps or fewer.
            tolerance = 1e-4 if name == "LCMScheduler" else 1e-9
            assert np.abs(final - wanted).max() < tolerance, f"steps={steps} strength={strength}"


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_read_only_arrays(name):
    made = table(name, 10)
    rows = {"N": 10, "N+1": 11, "2N-1": 19, "2N": 20}[SOLVERS[name].evaluations]
    assert len(made) == rows
    assert made.matrix.shape == (rows, made.state_slots, made.state_slots + 2)
    assert made.sigmas.shape == (rows + 1,)
    for array in (made.timesteps, made.input_scale, made.known_image, made.known_noise, made.langevin_snr):
        assert array.shape == (rows,)
        assert array.dtype == np.float64
        assert np.isfinite(array).all()
    assert np.isfinite(made.matrix).all()
    assert made.uses_noise.any() == SOLVERS[name].stochastic
    assert (made.known_image[-1], made.known_noise[-1]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="read-only"):
        made.matrix[0] = 0


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_compiled_once_and_kept(name):
    first = table(name, 50)
    assert table(name, 50) is first
    assert table(name.removesuffix("Scheduler").lower(), 50) is first


def test_every_name_is_resolved_whatever_its_case():
    assert len(NAMES) == len(set(NAMES)) == len(SOLVERS) == 18
    assert set(ALIASES.values()) == set(NAMES)
    assert all(alias == alias.lower() for alias in ALIASES)
    for name in NAMES:
        assert resolve(name) == resolve(name.upper()) == name
    assert resolve(" DPM++  2M ") == "DPMSolverMultistepScheduler"
    assert resolve("euler a") == "EulerAncestralDiscreteScheduler"
    for wrong in ("", "eulerr", None, 3):
        with pytest.raises(RequestError, match=r"scheduler must be one of DDPMScheduler, DDIM.*LCMScheduler"):
            resolve(wrong)


def test_the_catalogue_describes_each_name_once():
    entries = catalogue()
    assert tuple(entry.name for entry in entries) == NAMES
    assert info("heun").evaluations == "2N-1"
    assert info("ddpm").karras == "not applied"
    assert info("euler a").stochastic == "yes"
    for entry in entries:
        assert all(resolve(alias) == entry.name for alias in entry.aliases)


def test_karras_spaces_levels_where_there_are_levels_and_is_reported_where_not():
    for name in NAMES:
        made = table(name, 10, karras=True)
        assert made.karras
        assert made.karras_applied == (name in CURVED)
        assert any("karras sigmas were not applied" in note for note in made.notes) == (name not in CURVED)
    sigmas = table("euler", 10, karras=True).sigmas[:-1]
    assert np.ptp(np.diff(sigmas ** (1 / 7))) < 1e-12
    assert np.ptp(np.diff(np.log(table("euler", 10, spacing="exponential").sigmas[:-1]))) < 1e-12
    assert np.array_equal(table("euler", 10, spacing="karras").matrix, table("euler", 10, karras=True).matrix)


def test_algorithm_types_as_documented():
    plain = table("dpm++", 10)
    for default in (None, "", "none", "no", "None", "dpmsolver++"):
        assert np.array_equal(table("dpm++", 10, algorithm_type=default).matrix, plain.matrix)
    assert table("dpm++", 10, algorithm_type="dpmsolver+++").uses_noise.any()
    assert not table("dpm++", 10, algorithm_type="dpmsolver").uses_noise.any()
    noted = table("euler", 10, algorithm_type="sde-dpmsolver++")
    assert "not applied" in noted.notes[0]
    assert "EulerDiscreteScheduler" in noted.notes[0]
    assert table("euler", 10, algorithm_type="none").notes == ()
    with pytest.raises(RequestError, match=r"algorithm_type must be one of none, dpmsolver.*not 'dpm'"):
        table("dpm++", 10, algorithm_type="dpm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"steps must be a whole number between 1 and 1000, not 0"),
        ({"steps": -1}, r"steps must be"),
        ({"steps": True}, r"steps must be"),
        ({"steps": 10**6}, r"steps must be a whole number between 1 and 1000, not 1000000"),
        ({"steps": 2.5}, r"steps must be"),
        ({"steps": "10"}, r"steps must be"),
        ({"steps": None}, r"steps must be"),
        ({"strength": 0}, r"strength must be above 0 and at most 1, not 0"),
        ({"strength": 1.01}, r"strength must be"),
        ({"strength": 10**400}, r"strength must be"),
        ({"strength": math.nan}, r"strength must be"),
        ({"strength": "1"}, r"strength must be"),
        ({"steps": 4, "strength": 0.2}, r"strength 0.2 leaves no step of 4 to run"),
        ({"karras": "yes"}, r"karras must be true or false"),
        ({"prediction_type": "noise"}, r"prediction_type must be one of epsilon"),
        ({"spacing": "wide"}, r"spacing must be one of leading, trailing, linspace, karras, exponential"),
        ({"karras": True, "spacing": "exponential"}, r"spacing must be left out"),
        ({"solver_order": 4}, r"solver_order must be one of 1, 2, 3"),
        ({"solver_order": True}, r"solver_order must be"),
        ({"solver_type": "bh3", "name": "unipc"}, r"solver_type must be bh1 or bh2"),
        ({"solver_type": "euler"}, r"solver_type must be midpoint or heun"),
        ({"clip_sample": True}, r"clip_sample is not supported: it makes a step non-linear"),
        ({"thresholding": True}, r"thresholding is not supported"),
        ({"rho": 5}, r"rho is not an option of a scheduler; the options are spacing"),
        ({"eta": math.inf}, r"eta must be between 0 and 1"),
        ({"algorithm_type": "sde-dpmsolver", "solver_order": 3}, r"solver_order must be 1 or 2 for sde-dpmsolver"),
        ({"algorithm_type": "dpmsolver", "final_sigmas_type": "zero"}, r"final_sigmas_type must be sigma_min"),
        ({"algorithm_type": "sde-dpmsolver", "name": "dpm++ 2s"}, r"algorithm_type must be one of"),
        ({"name": "lcm", "steps": 51}, r"steps must be at most 50"),
        ({"steps": 1000}, r"steps must be fewer: two of its noise levels coincide"),
    ],
)
def test_bad_arguments_name_field_value_and_what_is_allowed(arguments, message):
    arguments = {"name": "dpm++", "steps": 10, **arguments}
    with pytest.raises(RequestError, match=message) as caught:
        table(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_and_as_many_as_are_sensible(name):
    for steps in (1, 2, 3, 50 if name == "LCMScheduler" else 500):
        assert np.isfinite(table(name, steps, karras=True).matrix).all()


def test_strength_runs_the_last_steps_from_the_image():
    whole, part = table("euler", 10), table("euler", 10, strength=0.7)
    assert len(part) == 7
    assert np.array_equal(part.matrix, whole.matrix[3:])
    assert (whole.start_image, part.start_image) == (0.0, 1.0)
    assert part.start_noise == part.sigmas[0] == whole.sigmas[3]
    with pytest.raises(RequestError, match="clean must be the latents"):
        part.run(lambda x, t: x, np.zeros(SHAPE))
    with pytest.raises(RequestError, match="noise must be given"):
        table("ddpm", 10).run(lambda x, t: x, np.zeros(SHAPE))


def test_noise_by_row_may_be_an_array_or_a_function():
    made = table("euler a", 10)
    rng = np.random.default_rng(0)
    latents, noise = rng.standard_normal(SHAPE), rng.standard_normal((len(made), *SHAPE))
    assert np.array_equal(
        made.run(lambda x, t: 0.9 * x, latents, noise), made.run(lambda x, t: 0.9 * x, latents, lambda row: noise[row])
    )


def test_the_known_region_follows_the_sample_down():
    for name in NAMES:
        made = table(name, 10)
        ratio = made.known_noise / made.known_image
        if name == "DDIMInverseScheduler":
            ratio = ratio[10:]
        assert (np.diff(ratio) <= 1e-12).all() or name == "KarrasVeScheduler"
        assert ratio[-1] == 0


def test_a_models_configuration_is_read_and_what_is_not_linear_refused():
    config = {
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "timestep_spacing": "leading",
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "use_karras_sigmas": True,
        "trained_betas": None,
    }
    schedule = NoiseSchedule.from_config(config)
    assert (schedule.beta_start, schedule.timestep_spacing, schedule.prediction_type) == (
        0.001,
        "leading",
        "v_prediction",
    )
    assert hash(schedule) == hash(NoiseSchedule.from_config(config))
    assert NoiseSchedule.from_config({}) == NoiseSchedule()
    assert table("euler", 10, schedule=schedule).timesteps[0] == 901
    assert not table("euler", 10, schedule=schedule).karras
    assert table("euler", 10, schedule=schedule, karras=None).karras_applied
    for key, value in (
        ("clip_sample", True),
        ("thresholding", True),
        ("prediction_type", "flow"),
        ("beta_schedule", "cosine?"),
        ("trained_betas", [0.1, 2.0]),
        ("timestep_spacing", "wide"),
        ("use_beta_sigmas", True),
        ("solver_order", 4),
        ("disable_corrector", [0]),
        ("num_train_timesteps", -3),
        ("num_train_timesteps", "many"),
        ("beta_start", [1]),
        ("beta_end", math.nan),
        ("trained_betas", "none"),
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
    ):
        with pytest.raises(WeightsError, match=r"scheduler configuration: .*"):
            NoiseSchedule.from_config({**config, key: value})


def test_zero_terminal_snr_and_the_other_beta_schedules():
    rescaled = NoiseSchedule.from_config({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    assert rescaled.alphas_cumprod[-1] == 2.0**-24
    assert rescaled.alphas_cumprod[0] == pytest.approx(NoiseSchedule().alphas_cumprod[0], rel=1e-6)
    assert np.isfinite(table("euler", 10, schedule=rescaled, prediction_type="v_prediction").matrix).all()
    cosine = NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"})
    assert (np.diff(cosine.alphas_cumprod) < 0).all()
    given = NoiseSchedule.from_config({"trained_betas": [0.1, 0.2, 0.3]})
    assert given.num_train_timesteps == 3
    assert given.alphas_cumprod == pytest.approx([0.9, 0.72, 0.504], rel=1e-6)


def test_only_the_way_up_of_ddim_inverse_is_unguided():
    for name in NAMES:
        guided = table(name, 10).guided
        if name == "DDIMInverseScheduler":
            assert guided.tolist() == [False] * 10 + [True] * 10
        else:
            assert guided.all(), name
