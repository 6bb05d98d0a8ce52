"""IPNDM: PNDM's multistep form with lower orders to start from, so N evaluations for N steps."""

from __future__ import annotations

from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.pndm import adams_bashforth
from intarsia.schedulers.rows import Rows, SamplingRun


def ipndm(run: SamplingRun) -> Rows:
    """Zhang & Chen 2023 (arXiv 2204.13902), "iPNDM", over DDIM's transfer (Liu et al. 2022, eq. 11).

    State: sample, previous noise predictions, newest first. diffusers' class has a noise schedule of its
    own, which no Stable Diffusion network was trained on; here the formula runs on the model's levels.
    """
    rows = Rows(run, state_slots=4, variance_exploding=False)

    for i in range(run.start, run.steps):
        level, target = run.sigmas[i : i + 2]
        history = (rows.epsilon(level), *rows.state[1:])
        epsilon = adams_bashforth(rows, history, i - run.start + 1)

        alpha, sigma = alpha_sigma(level)
        alpha_next, sigma_next = alpha_sigma(target)
        image = rows.sample - sigma * epsilon  # √ᾱ x_0
        sample = alpha_next * image / alpha + sigma_next * epsilon
        rows.add(run.timesteps[i], level, sample, *history[:3])
    return rows
