"""KarrasVe and ScoreSdeVe against the papers' algorithms, written out here in float64, and both in law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from intarsia.schedulers import NoiseSchedule, table

SHAPE = (3, 4)
SCHEDULE = NoiseSchedule()


def epsilon(x: Any, timestep: Any) -> Any:
    """Any smooth network, so that a wrong input, timestep or order of operations shows."""
    return np.sin(1.3 * x + timestep / 300) + 0.4 * x


def noise_at(sigma: float, x: np.ndarray) -> np.ndarray:
    """The network asked about x = x_0 + σ ε."""
    trained = np.log(np.sqrt((1 - SCHEDULE.alphas_cumprod) / SCHEDULE.alphas_cumprod))
    timestep = np.interp(math.log(sigma), trained, np.arange(1000))
    return epsilon(x / math.sqrt(1 + sigma**2), timestep)


def edm_stochastic(unit: np.ndarray, draws: np.ndarray, steps: int) -> np.ndarray:
    """Karras et al. 2022, algorithm 2, with its eq. 5 between the trained levels."""
    low, high = SCHEDULE.sigmas[0], SCHEDULE.sigmas[-1]
    levels = [(high ** (1 / 7) + i / (steps - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(steps)]
    levels[0] = high  # seven roots to the seventh power round, and churn is the root of a difference
    levels.append(0.0)
    x = levels[0] * unit
    for i in range(steps):
        gamma = min(80 / steps, math.sqrt(2) - 1) if 0.05 <= levels[i] <= 50 else 0.0
        hat = min(levels[i] * (1 + gamma), high)
        x_hat = x + math.sqrt(max(hat**2 - levels[i] ** 2, 0)) * 1.007 * draws[i]
        slope = (x_hat - (x_hat - hat * noise_at(hat, x_hat))) / hat
        x = x_hat + (levels[i + 1] - hat) * slope
        if levels[i + 1] > 0:
            after = noise_at(levels[i + 1], x)
            x = x_hat + (levels[i + 1] - hat) * (slope / 2 + after / 2)
    return x


@pytest.mark.parametrize("steps", [4, 10, 21])
def test_karras_ve_is_edms_algorithm_2(steps):
    rng = np.random.default_rng(steps)
    unit, draws = rng.standard_normal(SHAPE), rng.standard_normal((steps, *SHAPE))
    made = table("KarrasVeScheduler", steps)
    # Step i's churn is added by the last row of step i - 1.
    final = made.run(epsilon, unit, lambda row: draws[(row + 1) // 2])
    assert np.abs(final - edm_stochastic(unit, draws, steps)).max() < 1e-9


def test_karras_ve_in_the_middle_starts_churned():
    made = table("KarrasVeScheduler", 10, strength=0.7)
    level = table("KarrasVeScheduler", 10, spacing="karras").sigmas  # the same levels, raised where churned
    hat = made.sigmas[0]
    assert made.start_image == 1
    assert hat in level
    plain = hat / math.sqrt(2)
    assert made.start_noise == pytest.approx(math.sqrt(plain**2 + 1.007**2 * (hat**2 - plain**2)))


def predictor_corrector(unit: np.ndarray, draws: np.ndarray, steps: int) -> np.ndarray:
    """Song et al. 2021, algorithms 2 and 4, with their σ_i evenly in log between the trained levels."""
    levels = np.exp(np.linspace(math.log(SCHEDULE.sigmas[-1]), math.log(SCHEDULE.sigmas[0]), steps))
    x = levels[0] * unit
    for i, sigma in enumerate(levels):
        z = draws[2 * i]
        score = -noise_at(sigma, x) / sigma
        step = 2 * (0.15 * np.linalg.norm(z) / np.linalg.norm(score)) ** 2
        x = x + step * score + math.sqrt(2 * step) * z
        below = levels[i + 1] if i + 1 < steps else 0.0
        x = x + (sigma**2 - below**2) * -noise_at(sigma, x) / sigma
        if i + 1 < steps:
            x = x + math.sqrt(sigma**2 - below**2) * draws[2 * i + 1]
    return x


@pytest.mark.parametrize("steps", [4, 10, 21])
def test_score_sde_ve_is_the_predictor_corrector_sampler(steps):
    rng = np.random.default_rng(steps)
    unit, draws = rng.standard_normal(SHAPE), rng.standard_normal((2 * steps, *SHAPE))
    made = table("ScoreSdeVeScheduler", steps)
    final = made.run(epsilon, unit, draws)
    assert np.abs(final - predictor_corrector(unit, draws, steps)).max() < 1e-9


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_langevin_step_does_not_depend_on_what_the_network_predicts(prediction):
    rng = np.random.default_rng(1)
    unit = rng.standard_normal(SHAPE)
    made = table("ScoreSdeVeScheduler", 6, prediction_type=prediction)
    sigmas = iter(made.sigmas)

    def network(x: np.ndarray, timestep: float) -> np.ndarray:
        sigma = next(sigmas)
        alpha, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        eps = epsilon(x, timestep)
        image = (x - noise * eps) / alpha
        return image if prediction == "sample" else alpha * eps - noise * image

    draws = rng.standard_normal((12, *SHAPE))
    wanted = table("ScoreSdeVeScheduler", 6).run(epsilon, unit, draws)
    assert np.abs(made.run(network, unit, draws) - wanted).max() < 1e-9


def test_a_langevin_row_with_nothing_to_follow_stays():
    made = table("ScoreSdeVeScheduler", 3)
    draws = np.ones((6, *SHAPE))
    final = made.run(lambda x, timestep: 0 * x, np.ones(SHAPE), draws)
    assert np.isfinite(final).all()


@pytest.mark.parametrize("name", ["KarrasVeScheduler", "ScoreSdeVeScheduler", "EulerAncestralDiscreteScheduler"])
def test_samples_of_a_gaussian_have_its_mean_and_spread(name):
    """With the exact network of N(0.7, 0.6²), 4,000 values of one run: tolerances are four standard errors and bias."""
    rng = np.random.default_rng(0)
    made = table(name, 100, karras=True)
    sigmas = iter(made.sigmas)

    def network(x: np.ndarray, timestep: float) -> np.ndarray:
        sigma = next(sigmas)
        return sigma * (x * math.sqrt(1 + sigma**2) - 0.7) / (0.36 + sigma**2)

    final = made.run(network, rng.standard_normal(4000), lambda row: rng.standard_normal(4000))
    assert final.mean() == pytest.approx(0.7, abs=0.06)
    assert final.std() == pytest.approx(0.6, abs=0.06)
