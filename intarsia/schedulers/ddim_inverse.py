"""DDIM run towards noise and back: the image is inverted to the starting level, then denoised."""

from __future__ import annotations

from intarsia.schedulers.dpm_steps import alpha_sigma
from intarsia.schedulers.rows import Problem, Rows


def ddim_inverse(problem: Problem) -> Rows:
    """Song et al. 2021, DDIM (arXiv 2010.02502), section 4.3: the ODE in both directions.

    Starts from the image's own latents and draws no noise. On the way up the network is asked at the level
    that the step goes to, about the sample of the level below, as in diffusers. Only the way down is guided
    (Mokady et al. 2023, arXiv 2211.09794, section 3): with the prompt on both ways the run would come back to
    the image that it began with.
    """
    rows = Rows(problem, slots=1, exploding=False)
    rows.start = (1.0, 0.0)
    for i in reversed(range(problem.start, problem.steps)):
        # Where the schedule ends at a clean image, ε cannot be read off an image prediction there.
        up = max(problem.sigmas[i + 1], 1e-4)
        _transfer(rows, problem.timesteps[i], up, problem.sigmas[i], guided=False)
    for i in range(problem.start, problem.steps):
        _transfer(rows, problem.timesteps[i], problem.sigmas[i], problem.sigmas[i + 1], guided=True)
    return rows


def _transfer(rows: Rows, timestep: float, ratio: float, target: float, *, guided: bool) -> None:
    """DDIM's step (eq. 12 with η = 0) from ``ratio`` to ``target``, whichever is noisier."""
    alpha, sigma = alpha_sigma(target)
    rows.add(timestep, ratio, alpha * rows.image(ratio) + sigma * rows.epsilon(ratio), guided=guided)
