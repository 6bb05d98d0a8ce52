"""The variance-exploding SDE's predictor-corrector sampler."""

from __future__ import annotations

import math

from intarsia.schedulers.rows import Rows, SamplingRun

SNR = 0.15  # the paper's for VE models, table 5


def score_sde_ve(run: SamplingRun) -> Rows:
    """Song et al. 2021, Score SDE (arXiv 2011.13456), algorithms 2 and 4: Langevin corrector, then predictor.

    Two evaluations a step, both at its level, with score = -ε/σ. The corrector's step depends on norms
    (:func:`intarsia.schedulers.tables.langevin_step`); its row holds the step of size 2σ², which that scales.
    """
    rows = Rows(run, state_slots=1, variance_exploding=True)

    for i in range(run.start, run.steps):
        sigma, target = run.sigmas[i : i + 2]
        epsilon = rows.epsilon(sigma)
        corrected = rows.sample - 2 * sigma * epsilon + 2 * sigma * rows.noise
        rows.add(run.timesteps[i], sigma, corrected, langevin_snr=SNR)

        variance = sigma**2 - target**2
        drift = variance / sigma * epsilon
        predicted = rows.sample - drift
        if i + 1 < run.steps:
            spread = math.sqrt(variance) * rows.noise
            predicted = predicted + spread
        rows.add(run.timesteps[i], sigma, predicted)
    return rows
