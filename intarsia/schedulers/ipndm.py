"""IPNDM: PNDM's multistep form with lower orders to start from, so N evaluations for N steps."""

from __future__ import annotations

from intarsia.schedulers.dpm_steps import alpha_sigma
from intarsia.schedulers.pndm import ADAMS_BASHFORTH
from intarsia.schedulers.rows import Problem, Rows


def ipndm(problem: Problem) -> Rows:
    """Zhang & Chen 2023 (arXiv 2204.13902), "iPNDM", over DDIM's transfer (Liu et al. 2022, eq. 11).

    Slots: sample, previous noise predictions, newest first. diffusers' class has a noise schedule of its
    own, which no Stable Diffusion network was trained on; here the formula runs on the model's levels.
    """
    rows = Rows(problem, slots=4, exploding=False)
    for i in range(problem.start, problem.steps):
        (alpha, sigma), (alpha_next, sigma_next) = (alpha_sigma(ratio) for ratio in problem.sigmas[i : i + 2])
        history = (rows.epsilon(problem.sigmas[i]), *rows.slots[1:])
        weights = ADAMS_BASHFORTH[min(i - problem.start, 3)]
        mixed = sum((w * epsilon for w, epsilon in zip(weights, history, strict=False)), rows.zero)
        sample = alpha_next * (rows.sample - sigma * mixed) / alpha + sigma_next * mixed
        rows.add(problem.timesteps[i], problem.sigmas[i], sample, *history[:3])
    return rows
