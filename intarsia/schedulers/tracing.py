"""Any linear scheduler object of diffusers → its table, found by feeding it basis vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from intarsia.errors import RequestError
from intarsia.schedulers.settings import checked_steps
from intarsia.schedulers.tables import Array, Table

# Some of diffusers' solvers round their sample to float32: what is below this is rounding, not dependence.
RANK_TOLERANCE = 1e-5
LINEARITY_TOLERANCE = 1e-4
MOST_STEPS = 1000


def trace(scheduler: Any, steps: int) -> Table:
    """Compile ``scheduler``, an object with diffusers' ``set_timesteps`` and ``step``, for ``steps`` steps.

    The object is stepped once with a batch in which each entry carries one basis vector: the starting
    latents, one row's network output, or one row's fresh noise. The samples that come out are the
    coefficients of the unrolled run, from which the smallest state is found that carries each row to the next
    (time-varying realization theory: Kung 1978; van der Veen & Dewilde 1992). ``scheduler`` is changed as any
    run changes it. Needs torch.

    Raises:
        RequestError: it has no such methods, or is not linear; the message gives the residual.
    """
    if not callable(getattr(scheduler, "step", None)) or not callable(getattr(scheduler, "set_timesteps", None)):
        raise RequestError("scheduler", scheduler, "an object with diffusers' set_timesteps and step")

    timesteps = _timesteps(scheduler, checked_steps(steps, MOST_STEPS))
    count = len(timesteps)
    matrix = _realized(_unrolled(scheduler, steps, count))
    scale, shares, start = _levels(scheduler, steps, count)
    karras = bool(getattr(getattr(scheduler, "config", None), "use_karras_sigmas", False))

    table = Table(
        name=type(scheduler).__name__,
        steps=steps,
        karras=karras,
        karras_applied=karras,
        notes=(),
        timesteps=np.array([float(timestep) for timestep in timesteps]),
        input_scale=scale,
        matrix=matrix,
        uses_noise=(matrix[:, :, -1] != 0).any(axis=1),
        start_image=0.0,
        start_noise=start,
        known_image=shares[1:, 0].copy(),
        known_noise=shares[1:, 1].copy(),
        langevin_snr=np.zeros(count),
        guided=np.ones(count, dtype=np.bool_),
        sigmas=_sigmas(scale, shares),
    )
    _check_linear(scheduler, steps, table)
    return table


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
            if func is torch.randn:
                shape = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
                return noise(tuple(shape))
            if func is torch.randn_like:
                return noise(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    with Prepared():
        yield


def _timesteps(scheduler: Any, steps: int) -> list[Any]:
    """Start ``scheduler`` afresh; its timesteps."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return list(scheduler.timesteps)


def _run(scheduler: Any, steps: int, start: Array, outputs: Array, noises: Array) -> Array:
    """Samples before the first row and after each, shape [R+1, batch], for inputs [batch], [R, batch] twice."""
    import torch

    def column(values: Array) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values)).reshape(-1, 1, 1, 1)

    noise = _Noise(lambda row: column(noises[row]))
    sample, samples = column(start), [start]
    with _prepared(noise):
        for row, timestep in enumerate(_timesteps(scheduler, steps)):
            noise.row, noise.drawn = row, 0
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)
            try:
                sample = scheduler.step(column(outputs[row]), timestep, sample, return_dict=False)[0].double()
            except TypeError as exc:
                allowed = "one whose step takes (model_output, timestep, sample)"
                raise RequestError("scheduler", type(scheduler).__name__, allowed) from exc
            if noise.drawn > 1:
                raise RequestError("scheduler", type(scheduler).__name__, "one that draws noise once in a step")
            samples.append(sample.reshape(-1).numpy().copy())
    return np.array(samples)


def _unrolled(scheduler: Any, steps: int, count: int) -> Array:
    """Sample ``r`` as a sum of inputs: [R+1, 1+2R], columns: start, then output and noise of each row."""
    basis = np.eye(1 + 2 * count)
    return _run(scheduler, steps, basis[0], basis[1::2], basis[2::2])


def _realized(unrolled: Array) -> Array:
    """The smallest recurrence with those unrolled coefficients: [R, S, S+2], slot 0 the sample.

    Before row ``r`` the state must hold everything that past inputs still do to future samples: the rows of
    ``unrolled`` from r on, over the columns of the past, and no more than that.
    """
    count = len(unrolled) - 1
    states = [_state(unrolled[row:, : 1 + 2 * row]) for row in range(count)]
    states.append(unrolled[count:])

    slots = max(len(state) for state in states)
    matrix = np.zeros((count, slots, slots + 2))

    for row in range(count):
        here, following = states[row], states[row + 1]
        past = here.shape[1]

        carried = np.linalg.lstsq(here.T, following[:, :past].T, rcond=None)[0].T
        matrix[row, : len(following), : len(here)] = carried
        matrix[row, : len(following), slots:] = following[:, past:]

    matrix[np.abs(matrix) < 1e-12] = 0
    return matrix


def _state(future: Array) -> Array:
    """A basis of the row space of ``future``, its own first row first, the others orthonormal."""
    first = future[:1]
    direction = first / max(float(np.linalg.norm(first)), 1e-300)
    rest = future[1:] - (future[1:] @ direction.T) @ direction
    scale = np.linalg.norm(future, axis=1).max()
    _, values, vectors = np.linalg.svd(rest, full_matrices=False)
    return np.concatenate([first, vectors[values > RANK_TOLERANCE * scale]])


def _levels(scheduler: Any, steps: int, count: int) -> tuple[Array, Array, float]:
    """Input scales [R], shares of image and noise before each row and at the end [R+1, 2], starting noise."""
    import torch

    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    scale, shares = np.ones(count), np.tile([1.0, 0.0], (count + 1, 1))
    timesteps = _timesteps(scheduler, steps)
    start = float(getattr(scheduler, "init_noise_sigma", 1.0))
    with _prepared(_Noise(lambda row: none)):
        for row, timestep in enumerate(timesteps):
            shares[row] = _shares(scheduler, row, timestep, (one, none))
            if hasattr(scheduler, "scale_model_input"):
                scale[row] = float(scheduler.scale_model_input(one, timestep))
            scheduler.step(none, timestep, none, return_dict=False)
    return scale, shares, start


def _sigmas(scale: Array, shares: Array) -> Array:
    """Noise-to-signal ratios [R+1] for display: from the input scale where there is one, else the marginal's."""
    sigmas = shares[:, 1] / np.maximum(shares[:, 0], 1e-12)
    scaled = np.flatnonzero(scale < 1)
    sigmas[scaled] = np.sqrt(1 / scale[scaled] ** 2 - 1)
    return sigmas


def _shares(scheduler: Any, row: int, timestep: Any, units: tuple[Any, Any]) -> tuple[float, float]:
    """Shares of image and noise at the level that ``row`` starts from."""
    one, none = units
    if hasattr(scheduler, "add_noise"):
        at = timestep.reshape(1)
        return float(scheduler.add_noise(one, none, at)), float(scheduler.add_noise(none, one, at))
    if hasattr(scheduler, "alphas") and hasattr(scheduler, "betas"):
        return float(scheduler.alphas[row]), float(scheduler.betas[row])  # IPNDM's marginal
    return 1.0, 0.0


def _check_linear(scheduler: Any, steps: int, table: Table) -> None:
    """Step object and table with the same random inputs, large enough to meet any clipping; compare."""
    rng, count = np.random.default_rng(0), len(table)
    start, outputs, noises = (30 * rng.standard_normal((n, 8)) for n in (1, count, count))
    theirs = _run(scheduler, steps, start[0], outputs, noises)

    state = np.zeros((table.state_slots, 8))
    state[0] = start[0]

    for row in range(count):
        state = table.matrix[row] @ np.stack([*state, outputs[row], noises[row]])
        residual = float(np.abs(state[0] - theirs[row + 1]).max() / max(np.abs(theirs[row + 1]).max(), 1.0))
        if not residual <= LINEARITY_TOLERANCE:
            message = f"{type(scheduler).__name__} is not linear: row {row} is off by {residual:.1e} of its size"
            raise RequestError("scheduler", type(scheduler).__name__, message=message)
