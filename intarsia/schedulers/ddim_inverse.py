"""DDIM run toward noise and back: the image is inverted to the starting level, then denoised."""

from __future__ import annotations

from intarsia.schedulers.noise_schedule import alpha_sigma
from intarsia.schedulers.rows import Rows, SamplingRun


def ddim_inverse(run: SamplingRun) -> Rows:
    """Song et al. 2021, DDIM (arXiv 2010.02502), section 4.3: the ODE in both directions.

    Starts from the image's own latents and draws no noise. On the way up the network is evaluated at the level
    that the step goes to, about the sample of the level below, as in diffusers. Only the way down is guided
    (Mokady et al. 2023, arXiv 2211.09794, section 3): with the prompt on both ways the run would come back to
    the image that it began with.
    """
    rows = Rows(run, state_slots=1, variance_exploding=False)
    rows.start = (1.0, 0.0)
    levels = range(run.start, run.steps)

    for i in reversed(levels):
        noisier, cleaner = run.sigmas[i : i + 2]
        # Where the schedule ends at a clean image, ε cannot be read off an image prediction there.
        above_zero = max(cleaner, 1e-4)
        _transfer(rows, run.timesteps[i], above_zero, noisier, guided=False)

    for i in levels:
        noisier, cleaner = run.sigmas[i : i + 2]
        _transfer(rows, run.timesteps[i], noisier, cleaner, guided=True)
    return rows


def _transfer(rows: Rows, timestep: float, sigma: float, target: float, *, guided: bool) -> None:
    """DDIM's step (eq. 12 with η = 0) from ``sigma`` to ``target``, whichever is noisier."""
    alpha_t, sigma_t = alpha_sigma(target)
    sample = alpha_t * rows.image(sigma) + sigma_t * rows.epsilon(sigma)
    rows.add(timestep, sigma, sample, guided=guided)
