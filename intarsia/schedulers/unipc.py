"""UniPC: a predictor and, with the next evaluation, its corrector at no extra cost."""

from __future__ import annotations

import math

import numpy as np

from intarsia.schedulers.dpm_steps import checked_type
from intarsia.schedulers.noise_schedule import alpha_sigma, log_snr
from intarsia.schedulers.rows import Rows, SamplingRun
from intarsia.schedulers.tables import Array

TYPES = ("bh1", "bh2")


def unipc(run: SamplingRun) -> Rows:
    """Zhao et al. 2023, UniPC (arXiv 2302.04867), algorithms 1 and 2, data or noise prediction.

    Each row first corrects the sample that the last row predicted, then predicts the next one from the
    corrected sample. State: sample, the last corrected sample, previous predictions, newest first.
    """
    options = run.options
    highest = options.solver_order or 2
    solver_type = checked_type(options.solver_type, TYPES, "bh2")
    form = _Form(options.predict_x0, solver_type)

    rows = Rows(run, state_slots=2 + highest, variance_exploding=False)
    _, origin, *predictions = rows.state
    order = 0

    for i in range(run.start, run.steps):
        sigma = run.sigmas[i]
        newest = rows.image(sigma) if form.data else rows.epsilon(sigma)

        sample = rows.sample
        if order:  # the order of the step that is corrected
            sigmas = run.sigmas[i - order : i + 1]
            sample = form.step(origin, tuple(predictions), sigmas, newest)

        left = highest
        if options.lower_order_final is not False:
            left = run.steps - i
        order = min(highest, left, i - run.start + 1)

        history = (newest, *predictions[:-1])
        sigmas = run.sigmas[i - order + 1 : i + 2]
        predicted = form.step(sample, history, sigmas, None)
        rows.add(run.timesteps[i], sigma, predicted, sample, *history)
    return rows


class _Form:
    """UniPC's step in one of its forms: predicting data or noise, with B(h) = h (bh1) or e^h - 1 (bh2)."""

    def __init__(self, data: bool, solver_type: str) -> None:
        self.data = data
        self.solver_type = solver_type

    def step(self, origin: Array, history: tuple[Array, ...], sigmas: tuple[float, ...], end: Array | None) -> Array:
        """From ``sigmas[-2]`` to ``sigmas[-1]``; with the prediction ``end`` there, the corrector's step.

        ``history`` holds predictions newest first, the first of them at ``sigmas[-2]``.
        """
        newest, *previous = history
        alpha_s, sigma_s = alpha_sigma(sigmas[-2])
        alpha_t, sigma_t = alpha_sigma(sigmas[-1])
        *earlier, lambda_s, lambda_t = [log_snr(sigma) for sigma in sigmas]
        h = lambda_t - lambda_s
        signed = -h if self.data else h
        growth = math.expm1(signed)

        carried, scale = alpha_t / alpha_s, sigma_t
        if self.data:
            carried, scale = sigma_t / sigma_s, alpha_t
        sample = carried * origin - scale * growth * newest
        if h == 0:
            return sample

        # r_m and D_m / r_m of the paper, newest first; the corrector has one more, r = 1, at the step's end.
        ratios = [(point - lambda_s) / h for point in reversed(earlier)]
        terms = [(m - newest) / r for m, r in zip(previous, ratios, strict=False)]
        if end is not None:
            ratios.append(1.0)
            terms.append(end - newest)
        if not terms:
            return sample

        b = signed if self.solver_type == "bh1" else growth
        factors = _solve(ratios, signed, b)
        for factor, term in zip(factors, terms, strict=True):
            sample = sample - scale * b * factor * term
        return sample


def _solve(ratios: list[float], h: float, b: float) -> list[float]:
    """Weights a with Σ_m a_m r_m^(k-1) = k! φ_{k+1}(h) / B(h), k = 1 … (eq. 5 and 9); 1/2 for a single one."""
    count = len(ratios)
    if count == 1:
        return [0.5]  # the paper's choice, which keeps the order (appendix F)

    phi = math.expm1(h) / h - 1
    factorial = 1.0
    right = []
    for k in range(1, count + 1):
        right.append(phi * factorial / b)
        factorial *= k + 1
        phi = phi / h - 1 / factorial

    powers = np.vander(np.array(ratios), count, increasing=True).T
    weights = np.linalg.solve(powers, np.array(right))
    return [float(weight) for weight in weights]
