"""A solver's input, one sampling run; and its output, the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intarsia.schedulers.noise_schedule import NoiseSchedule, PredictionType, alpha_sigma
from intarsia.schedulers.tables import Array


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a solver; None is the solver's own default."""

    algorithm_type: str | None = None
    solver_order: int | None = None
    solver_type: str | None = None
    lower_order_final: bool | None = None
    euler_at_final: bool = False
    predict_x0: bool = True
    eta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """One run of a sampler, for a solver to lay out.

    Attributes:
        timesteps: ``N`` of them, noisy to clean, as fed to the network.
        sigmas: N+1 noise-to-signal ratios √(1-ᾱ)/√ᾱ: at the timesteps, and the final one.
        start: index of the first step that is run (0 at strength 1).
        prediction_type: what the network's output is.
        options: the solver's settings.
        schedule: the model's noise, for solvers that evaluate between the levels.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    start: int
    prediction_type: PredictionType
    options: Options
    schedule: NoiseSchedule

    @property
    def steps(self) -> int:
        """How many steps the whole schedule has."""
        return len(self.timesteps)

    def timestep_of(self, sigma: float) -> float:
        """Fractional timestep of a sigma between the levels, linear in log σ."""
        timestep = self.schedule.timestep_of(np.array(sigma))
        return float(timestep)


class Rows:
    """Rows under construction; solvers write their update as sums of this object's unit vectors.

    ``state[i]`` stands for a state slot, ``sample`` for slot 0, ``output`` for the network's output and
    ``noise`` for fresh noise: vectors of length S+2, so that any linear formula written with them yields
    its coefficients. ``variance_exploding`` says that the sample is x_0 + σ ε (Euler and its kin) and not
    √ᾱ x_0 + √(1-ᾱ) ε. ``start`` replaces the usual (image, noise) shares that a run begins with.
    """

    def __init__(self, run: SamplingRun, state_slots: int, *, variance_exploding: bool) -> None:
        self.variance_exploding = variance_exploding
        self.prediction_type = run.prediction_type

        *state, output, noise = np.eye(state_slots + 2)
        self.state: tuple[Array, ...] = tuple(state)
        self.sample: Array = state[0]
        self.output: Array = output
        self.noise: Array = noise
        self.zero: Array = np.zeros(state_slots + 2)

        self.timesteps: list[float] = []
        self.sigmas: list[float] = []
        self.updates: list[tuple[Array, ...]] = []
        self.known: list[float | None] = []
        self.langevin_snr: list[float] = []
        self.guided: list[bool] = []
        self.start: tuple[float, float] | None = None

    def add(
        self,
        timestep: float,
        sigma: float,
        *state: Array,
        known: float | None = None,
        langevin_snr: float = 0.0,
        guided: bool = True,
    ) -> None:
        """A row evaluated at ``timestep`` and ``sigma``; ``state`` is the new content of every state slot.

        ``known`` is the sigma of the known region after the row; None is that of the next evaluation.
        """
        slots = len(self.state)
        shapes = [np.shape(slot) for slot in state]
        if shapes != slots * [self.sample.shape]:
            raise ValueError(f"a row needs {slots} sums of unit vectors, one for each state slot")

        self.timesteps.append(timestep)
        self.sigmas.append(sigma)
        self.updates.append(state)
        self.known.append(known)
        self.langevin_snr.append(langevin_snr)
        self.guided.append(guided)

    def image(self, sigma: float, sample: Array | None = None, output: Array | None = None) -> Array:
        """x_0 as the network predicts it from ``sample`` (slot 0) at ``sigma``."""
        x = self.sample if sample is None else sample
        out = self.output if output is None else output

        if self.prediction_type == "sample":
            return out

        alpha, _ = alpha_sigma(sigma)
        if self.prediction_type == "epsilon":
            image_and_noise = x if self.variance_exploding else x / alpha  # x_0 + σ ε
            return image_and_noise - sigma * out

        # v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans & Ho 2022, section 2.4)
        share = alpha * alpha if self.variance_exploding else alpha
        return share * x - sigma * alpha * out

    def epsilon(self, sigma: float, sample: Array | None = None, output: Array | None = None) -> Array:
        """ε as the network predicts it from ``sample`` (slot 0) at ``sigma``."""
        x = self.sample if sample is None else sample
        out = self.output if output is None else output

        if self.prediction_type == "epsilon":
            return out

        alpha, _ = alpha_sigma(sigma)
        scale = 1.0 if self.variance_exploding else alpha
        if self.prediction_type == "sample":
            noise = x - scale * out
            return noise / (sigma * scale)
        share = sigma * alpha * alpha / scale
        return share * x + alpha * out
