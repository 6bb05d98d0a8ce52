"""IPNDM: PNDM's multistep form with lower orders to start from, so N evaluations for N steps."""

from __future__ import annotations

from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.pndm import ADAMS_BASHFORTH
from intarsia.schedulers.rows import Rows, SamplingRun


def ipndm(run: SamplingRun) -> Rows:
    """Zhang & Chen 2023 (arXiv 2204.13902), "iPNDM", over DDIM's transfer (Liu et al. 2022, eq. 11).

    State: sample, previous noise predictions, newest first. diffusers' class has a noise schedule of its
    own, which no Stable Diffusion network was trained on; here the formula runs on the model's levels.
    """
    rows = Rows(run, state_slots=4, variance_exploding=False)

    for i in range(run.start, run.steps):
        history = (rows.epsilon(run.sigmas[i]), *rows.state[1:])
        weights = ADAMS_BASHFORTH[min(i - run.start, 3)]
        mixed = sum((w * epsilon for w, epsilon in zip(weights, history, strict=False)), rows.zero)

        (alpha, sigma), (alpha_next, sigma_next) = map(alpha_sigma, run.sigmas[i : i + 2])
        sample = alpha_next * (rows.sample - sigma * mixed) / alpha + sigma_next * mixed
        rows.add(run.timesteps[i], run.sigmas[i], sample, *history[:3])
    return rows
