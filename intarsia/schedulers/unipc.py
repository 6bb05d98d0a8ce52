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
    form = _Form(options.predict_x0, checked_type(options.solver_type, TYPES, "bh2"))
    rows = Rows(run, state_slots=2 + highest, variance_exploding=False)
    order = 0

    for i in range(run.start, run.steps):
        newest = rows.image(run.sigmas[i]) if form.data else rows.epsilon(run.sigmas[i])

        sample = rows.sample
        if order:  # the order of the step that is corrected
            sigmas = run.sigmas[i - order : i + 1]
            sample = form.step(rows.state[1], rows.state[2:], sigmas, newest)

        left = run.steps - i if options.lower_order_final is not False else highest
        order = min(highest, left, i - run.start + 1)
        history = (newest, *rows.state[2:-1])
        predicted = form.step(sample, history, run.sigmas[i - order + 1 : i + 2], None)
        rows.add(run.timesteps[i], run.sigmas[i], predicted, sample, *history)
    return rows


class _Form:
    """UniPC's step in one of its forms: predicting data or noise, with B(h) = h (bh1) or e^h - 1 (bh2)."""

    def __init__(self, data: bool, solver_type: str) -> None:
        self.data, self.solver_type = data, solver_type

    def step(self, origin: Array, history: tuple[Array, ...], sigmas: tuple[float, ...], end: Array | None) -> Array:
        """From ``sigmas[-2]`` to ``sigmas[-1]``; with the prediction ``end`` there, the corrector's step.

        ``history`` holds predictions newest first, the first of them at ``sigmas[-2]``.
        """
        (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(sigmas[-2]), alpha_sigma(sigmas[-1])
        points = [log_snr(sigma) for sigma in sigmas]
        h = points[-1] - points[-2]
        signed = -h if self.data else h
        growth = math.expm1(signed)

        carried, scale = (sigma_t / sigma_s, alpha_t) if self.data else (alpha_t / alpha_s, sigma_t)
        sample = carried * origin - scale * growth * history[0]
        order = len(sigmas) - 1
        if h == 0 or (order == 1 and end is None):
            return sample

        ratio_steps = [(point - points[-2]) / h for point in points[-3::-1]]
        terms = [(m - history[0]) / r for m, r in zip(history[1:], ratio_steps, strict=False)]
        if end is not None:
            ratio_steps, terms = [*ratio_steps, 1.0], [*terms, end - history[0]]

        b = signed if self.solver_type == "bh1" else growth
        for factor, term in zip(_solve(ratio_steps, signed, b), terms, strict=True):
            sample = sample - scale * b * factor * term
        return sample


def _solve(ratio_steps: list[float], h: float, b: float) -> list[float]:
    """Weights a with Σ_m a_m r_m^(k-1) = k! φ_{k+1}(h) / B(h), k = 1 … (eq. 5 and 9); 1/2 for a single one."""
    count = len(ratio_steps)
    if count == 1:
        return [0.5]  # the paper's choice, which keeps the order (appendix F)
    phi, factorial, right = math.expm1(h) / h - 1, 1.0, []
    for k in range(1, count + 1):
        right.append(phi * factorial / b)
        factorial *= k + 1
        phi = phi / h - 1 / factorial
    powers = np.vander(np.array(ratio_steps), count, increasing=True).T
    return [float(value) for value in np.linalg.solve(powers, np.array(right))]
