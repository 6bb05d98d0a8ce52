"""Any linear scheduler object of diffusers → its table, found by feeding it basis vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from intarsia.errors import RequestError
from intarsia.schedulers.settings import checked_steps, checked_strength
from intarsia.schedulers.tables import Array, Table

# Some of diffusers' solvers round their sample to float32: what is below this is rounding, not dependence.
RANK_TOLERANCE = 1e-5
LINEARITY_TOLERANCE = 1e-4
MOST_STEPS = 1000
# What diffusers' schedulers can do to a predicted image that is no sum of their inputs.
NOT_LINEAR = ("clip_sample", "thresholding")


def trace(scheduler: Any, steps: int, strength: float = 1.0) -> Table:
    """Compile ``scheduler``, an object with diffusers' ``set_timesteps`` and ``step``, for ``steps`` steps.

    The object is stepped once with a batch in which each entry carries one basis vector: the starting
    latents, one row's network output, or one row's fresh noise. The samples that come out are the
    coefficients of the unrolled run, from which the smallest state is found that carries each row to the next
    (time-varying realization theory: Kung 1978; van der Veen & Dewilde 1992). ``scheduler`` is changed as any
    run changes it. Needs torch.

    Args:
        strength: the last ``int(steps * strength)`` steps are run, from the image with noise, as diffusers'
            inpainting pipelines run them; 1 runs all of them, from noise.

    Raises:
        RequestError: it has no such methods, or is not linear; the message gives the residual, and what of its
            configuration is the reason.
    """
    for method in ("step", "set_timesteps"):
        if not callable(getattr(scheduler, method, None)):
            raise RequestError("scheduler", scheduler, "an object with diffusers' set_timesteps and step")

    strength = checked_strength(strength)
    traced = _Traced(scheduler, checked_steps(steps, MOST_STEPS), strength)
    count = len(traced.timesteps())
    if not count:
        message = f"strength {strength:g} leaves no step of {steps} to run: raise strength or steps"
        raise RequestError("strength", strength, message=message)

    matrix = _realized(_unrolled(traced, count))
    scale, shares, noise_at_start = _levels(traced, count)
    start_image, start_noise = (0.0, noise_at_start) if strength == 1 else shares[0]

    config = getattr(scheduler, "config", None)
    karras = bool(getattr(config, "use_karras_sigmas", False))

    table = Table(
        name=type(scheduler).__name__,
        steps=steps,
        karras=karras,
        karras_applied=karras,
        notes=(),
        timesteps=np.array([float(timestep) for timestep in traced.timesteps()]),
        input_scale=scale,
        matrix=matrix,
        uses_noise=(matrix[:, :, -1] != 0).any(axis=1),
        start_image=float(start_image),
        start_noise=float(start_noise),
        known_image=shares[1:, 0].copy(),
        known_noise=shares[1:, 1].copy(),
        langevin_snr=np.zeros(count),
        guided=np.ones(count, dtype=np.bool_),
        sigmas=_sigmas(scale, shares),
        strength=strength,
    )
    _check_linear(traced, table)
    return table


@dataclass(frozen=True)
class _Traced:
    """The object that is traced, and which of its steps are run."""

    scheduler: Any
    steps: int
    strength: float

    @property
    def name(self) -> str:
        return type(self.scheduler).__name__

    def timesteps(self) -> list[Any]:
        """Start the object afresh; the timesteps that are run."""
        scheduler = self.scheduler
        scheduler.set_timesteps(self.steps)
        steps_run = min(int(self.steps * self.strength), self.steps)
        # In diffusers a step of two evaluations has two timesteps.
        skipped = (self.steps - steps_run) * int(getattr(scheduler, "order", 1))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        return list(scheduler.timesteps)[skipped:]


@dataclass
class _Noise:
    """What replaces torch's generators while a scheduler is traced: hands out prepared noise, counts draws."""

    rows: Callable[[int], Any]
    row: int = 0
    drawn: int = 0

    def __call__(self, shape: tuple[int, ...]) -> Any:
        self.drawn += 1
        return self.rows(self.row).reshape(shape)


@contextmanager
def _prepared(noise: _Noise) -> Iterator[None]:
    """Within it, ``torch.randn`` and its like return ``noise``; other threads are not affected."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Prepared(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.randn_like:
                return noise(tuple(args[0].shape))
            if func is not torch.randn:
                return func(*args, **(kwargs or {}))

            is_one_shape = len(args) == 1 and not isinstance(args[0], int)
            shape = args[0] if is_one_shape else args
            return noise(tuple(shape))

    with Prepared():
        yield


def _run(traced: _Traced, start: Array, outputs: Array, noises: Array) -> Array:
    """Samples before the first row and after each, shape [R+1, batch], for inputs [batch], [R, batch] twice."""
    import torch

    def column(values: Array) -> Any:
        contiguous = np.ascontiguousarray(values)
        return torch.from_numpy(contiguous).reshape(-1, 1, 1, 1)

    scheduler, name = traced.scheduler, traced.name
    noise = _Noise(lambda row: column(noises[row]))
    sample = column(start)
    samples = [start]

    with _prepared(noise):
        for row, timestep in enumerate(traced.timesteps()):
            noise.row = row
            noise.drawn = 0
            output = column(outputs[row])
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)

            try:
                stepped = scheduler.step(output, timestep, sample, return_dict=False)
                sample = stepped[0].double()
            except TypeError as exc:
                allowed = "one whose step takes (model_output, timestep, sample)"
                raise RequestError("scheduler", name, allowed) from exc
            if noise.drawn > 1:
                raise RequestError("scheduler", name, "one that draws noise once in a step")

            samples.append(sample.reshape(-1).numpy().copy())
    return np.array(samples)


def _unrolled(traced: _Traced, count: int) -> Array:
    """Sample ``r`` as a sum of inputs: [R+1, 1+2R], columns: start, then output and noise of each row."""
    basis = np.eye(1 + 2 * count)
    start = basis[0]
    outputs = basis[1::2]
    noises = basis[2::2]
    return _run(traced, start, outputs, noises)


def _realized(unrolled: Array) -> Array:
    """The smallest recurrence with those unrolled coefficients: [R, S, S+2], slot 0 the sample.

    Before row ``r`` the state must hold everything that past inputs still do to future samples: the rows of
    ``unrolled`` from r on, over the columns of the past, and no more than that.
    """
    count = len(unrolled) - 1
    states = []
    for row in range(count):
        past = 1 + 2 * row  # inputs before the row
        states.append(_state(unrolled[row:, :past]))
    states.append(unrolled[count:])

    slots = max(map(len, states))
    matrix = np.zeros((count, slots, slots + 2))

    for row, (here, following) in enumerate(pairwise(states)):
        past = here.shape[1]
        of_past = following[:, :past]
        of_row = following[:, past:]  # what the row's own output and noise do

        solution, *_ = np.linalg.lstsq(here.T, of_past.T, rcond=None)
        new_state = matrix[row, : len(following)]
        new_state[:, : len(here)] = solution.T
        new_state[:, slots:] = of_row

    is_rounding = np.abs(matrix) < 1e-12
    matrix[is_rounding] = 0
    return matrix


def _state(future: Array) -> Array:
    """A basis of the row space of ``future``, its own first row first, the others orthonormal."""
    first, others = future[:1], future[1:]
    length = float(np.linalg.norm(first))
    direction = first / max(length, 1e-300)
    orthogonal = others - (others @ direction.T) @ direction

    _, singular_values, vectors = np.linalg.svd(orthogonal, full_matrices=False)
    scale = np.linalg.norm(future, axis=1).max()
    is_independent = singular_values > RANK_TOLERANCE * scale
    return np.concatenate([first, vectors[is_independent]])


def _levels(traced: _Traced, count: int) -> tuple[Array, Array, float]:
    """Input scales [R], shares of image and noise before each row and at the end [R+1, 2], starting noise."""
    import torch

    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    none = torch.zeros_like(one)
    scale = np.ones(count)
    shares = np.tile([1.0, 0.0], (count + 1, 1))

    scheduler, timesteps = traced.scheduler, traced.timesteps()
    skipped = len(scheduler.timesteps) - count
    start = float(getattr(scheduler, "init_noise_sigma", 1.0))
    with _prepared(_Noise(lambda row: none)):
        for row, timestep in enumerate(timesteps):
            shares[row] = _shares(scheduler, skipped + row, timestep, (one, none))
            if hasattr(scheduler, "scale_model_input"):
                scale[row] = float(scheduler.scale_model_input(one, timestep))
            scheduler.step(none, timestep, none, return_dict=False)
    return scale, shares, start


def _sigmas(scale: Array, shares: Array) -> Array:
    """Noise-to-signal ratios [R+1] for display: from the input scale where there is one, else the marginal's."""
    image, noise = shares[:, 0], shares[:, 1]
    sigmas = noise / np.maximum(image, 1e-12)

    scaled = np.flatnonzero(scale < 1)
    variances = 1 / scale[scaled] ** 2 - 1  # the scale is 1/√(1 + σ²)
    sigmas[scaled] = np.sqrt(variances)
    return sigmas


def _shares(scheduler: Any, row: int, timestep: Any, units: tuple[Any, Any]) -> tuple[float, float]:
    """Shares of image and noise at the level that the schedule's ``row`` starts from."""
    one, none = units
    if hasattr(scheduler, "add_noise"):
        at = timestep.reshape(1)
        image = scheduler.add_noise(one, none, at)
        noise = scheduler.add_noise(none, one, at)
        return float(image), float(noise)

    if hasattr(scheduler, "alphas") and hasattr(scheduler, "betas"):  # IPNDM's marginal
        return float(scheduler.alphas[row]), float(scheduler.betas[row])
    return 1.0, 0.0


def _check_linear(traced: _Traced, table: Table) -> None:
    """Step object and table with the same random inputs, large enough to meet any clipping; compare."""
    rng = np.random.default_rng(0)
    batch, count = 8, len(table)
    start = 30 * rng.standard_normal(batch)
    outputs = 30 * rng.standard_normal((count, batch))
    noises = 30 * rng.standard_normal((count, batch))
    _, *samples = _run(traced, start, outputs, noises)

    state = np.zeros((table.state_slots, batch))
    state[0] = start

    for row, sample in enumerate(samples):
        inputs = np.stack([*state, outputs[row], noises[row]])
        state = table.matrix[row] @ inputs

        size = max(np.abs(sample).max(), 1.0)
        difference = np.abs(state[0] - sample).max()
        residual = float(difference / size)
        if not residual <= LINEARITY_TOLERANCE:
            message = f"{traced.name} is not linear: row {row} is off by {residual:.1e} of its size"
            raise RequestError("scheduler", traced.name, message=message + _reason(traced))


def _reason(traced: _Traced) -> str:
    """What of an object's configuration makes its steps non-linear, as the rest of a sentence."""
    config = getattr(traced.scheduler, "config", None)
    settings = [name for name in NOT_LINEAR if getattr(config, name, False)]
    if not settings:
        return ""
    without = ", ".join(f"{name}=False" for name in settings)
    return f"; its {' and '.join(settings)} cuts predictions off, so make it with {without}"
