"""A sampler as data: one row of coefficients per evaluation of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from intarsia.errors import RequestError

Array = NDArray[np.float64]
Network = Callable[[Array, float], Array]
RowNoise = Callable[[int], Array]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Table:
    """Coefficients of a whole run: ``R`` rows, ``S`` state slots, float64, read-only.

    The latents and whatever a solver remembers are the state, ``S`` arrays of one image's latent shape;
    slot 0 is the current sample. Row ``r`` reads::

        output    = network(input_scale[r] * state[0], timesteps[r])
        new_state = matrix[r] @ [state[0], …, state[S-1], output, fresh_noise]

    The state begins as ``start_image * clean + start_noise * unit_noise`` in slot 0 and zeros elsewhere;
    after the last row slot 0 is the finished sample. Fresh noise is drawn for the rows of ``uses_noise``
    only, in row order.

    A 4-channel inpainting model has its known region overwritten in slot 0 after row ``r`` by
    ``known_image[r] * clean + known_noise[r] * unit_noise``, with the starting noise; the other slots stay.

    Rows with ``langevin_snr[r] > 0`` (only ScoreSdeVe has them) choose their own step size: see
    :func:`langevin_step`.

    Rows without ``guided[r]`` (DDIMInverse's way up) are evaluated for the negative prompt alone, whatever the
    guidance scale.

    ``sigmas`` has R+1 entries, for display and previews: the noise-to-signal ratio of each evaluation, then the last.

    ``strength`` is the share of ``steps`` that the rows run, for display.
    """

    name: str
    steps: int
    karras: bool
    karras_applied: bool
    notes: tuple[str, ...]
    timesteps: Array
    input_scale: Array
    matrix: Array
    uses_noise: NDArray[np.bool_]
    start_image: float
    start_noise: float
    known_image: Array
    known_noise: Array
    langevin_snr: Array
    guided: NDArray[np.bool_]
    sigmas: Array
    strength: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __repr__(self) -> str:
        return f"Table({self.name!r}, steps={self.steps}, rows={len(self)})"

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def state_slots(self) -> int:
        """How many arrays the state has."""
        return int(self.matrix.shape[1])

    def run(
        self,
        network: Network,
        latents: Array,
        noise: RowNoise | Array | None = None,
        clean: Array | None = None,
    ) -> Array:
        """The plain loop that every backend must agree with.

        Args:
            network: ``network(x, timestep) -> output``; ``x`` is already scaled, shape as ``latents``.
            latents: unit-variance starting noise of any shape; the table scales it to its first level.
            noise: fresh unit noise by row, ``noise(row)`` or an array indexed by row.
            clean: latents of the image that is started from, needed where ``start_image`` is not 0.

        Returns:
            The finished sample, float64, shape as ``latents``.

        Raises:
            RequestError: ``noise`` or ``clean`` is needed and missing.
        """
        if clean is None and self.start_image:
            raise RequestError("clean", None, "the latents of the image that this table starts from")
        if noise is None and self.uses_noise.any():
            raise RequestError("noise", None, f"given: {self.name} uses fresh noise in its rows")

        latents = np.asarray(latents, dtype=np.float64)
        start = self.start_noise * latents
        if clean is not None:
            start = self.start_image * clean + start
        state = np.zeros((self.state_slots, *latents.shape))
        state[0] = start

        for row in range(len(self)):
            sample = state[0]
            timestep = float(self.timesteps[row])
            output = network(self.input_scale[row] * sample, timestep)

            fresh = np.zeros_like(latents)
            if self.uses_noise[row] and noise is not None:
                fresh = noise(row) if callable(noise) else noise[row]

            matrix = self.matrix[row]
            snr = float(self.langevin_snr[row])
            if snr:
                matrix = langevin_step(matrix, snr, sample, output, fresh)

            inputs = np.stack([*state, output, fresh])
            state = np.tensordot(matrix, inputs, axes=1)
        return np.asarray(state[0])


def langevin_step(matrix: Array, snr: float, sample: Array, output: Array, noise: Array) -> Array:
    """The matrix of a row that takes its step size from the norms of its inputs.

    Annealed Langevin dynamics (Song et al. 2021, "Score-Based Generative Modeling through SDEs",
    arXiv 2011.13456, algorithm 4) chooses ``step = 2 (snr ‖noise‖ / ‖score‖)²`` and moves by
    ``step · score`` and ``√(2 step) · noise``. Such a row has one slot and ``matrix`` of shape [1, 3], and
    with ``drift = (matrix[0, 0] - 1) * sample + matrix[0, 1] * output``, ``spread = matrix[0, 2] * noise``
    and ``ratio = snr ‖spread‖ / ‖drift‖``, norms over one image, it moves by
    ``ratio² drift + ratio spread``. Where the drift vanishes, it does not move.

    Returns:
        The matrix of that move, shape [1, 3].
    """
    carried, output_weight, noise_weight = matrix[0]
    sample_weight = carried - 1  # of what is added to the sample
    drift = sample_weight * sample + output_weight * output
    drift_norm = float(np.linalg.norm(drift))
    noise_norm = float(np.linalg.norm(noise))

    ratio = 0.0
    if drift_norm > 0:
        ratio = snr * abs(float(noise_weight)) * noise_norm / drift_norm

    step = ratio**2
    weights = [1 + step * sample_weight, step * output_weight, ratio * noise_weight]
    return np.array([weights])
