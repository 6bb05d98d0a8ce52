"""``ColorMap``: latents to RGB by one matrix, and how it is fitted from an autoencoder.

The latents of image autoencoders are nearly linear in color: a 3 × C matrix and an offset, fitted by least squares,
give each latent cell the mean color of its pixels. That is enough to see what an image becomes, at no decoder's cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["IDENTITY", "ColorMap", "fit", "sample_image"]

# Side of the image that a map is fitted to. With a factor of 8 it has 256 cells, for 5 unknowns a color. Twice the side
# gains 1 dB (43 on the packaged model's scenes) for four times the work: seconds, for an SDXL autoencoder on a CPU.
_SIDE = 128
# Sides of the random color fields that are added up, coarse to fine: every scale has contrast, as in photographs.
_FIELDS = (2, 4, 8, 16, 32, 64)
# Standard deviation of their sum in levels, and side in pixels of the flat squares beside them.
_CONTRAST, _SQUARE = 64, 32


@dataclass(frozen=True, eq=False)
class ColorMap:
    """``colors = matrix · latents + offset``, RGB in 0 … 1.

    Attributes:
        matrix: float64 ``[3, C]``.
        offset: float64 ``[3]``.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def channels(self) -> int:
        """How many the latents have."""
        return int(self.matrix.shape[1])

    def colors(self, latents: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Latents ``[C, h, w]`` as uint8 ``[h, w, 3]``. What is not finite is black."""
        mapped = np.tensordot(latents.astype(np.float32), self.matrix.astype(np.float32), axes=(0, 1))
        levels = 255 * (mapped + self.offset.astype(np.float32))
        finite = np.nan_to_num(levels, nan=0.0, posinf=0.0, neginf=0.0)
        colors: NDArray[np.uint8] = np.rint(finite.clip(0, 255)).astype(np.uint8)
        return colors

    def to_json(self) -> str:
        """The text that :meth:`from_json` reads."""
        return json.dumps({"matrix": self.matrix.tolist(), "offset": self.offset.tolist()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, channels: int) -> ColorMap:
        """Read a map of latents with that many channels.

        Raises:
            ValueError: it is damaged, or for other latents.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or set(values) != {"matrix", "offset"}:
            raise ValueError("not a matrix and an offset")
        try:
            matrix, offset = (np.array(values[name], np.float64) for name in ("matrix", "offset"))
        except TypeError as exc:
            raise ValueError("not numbers") from exc

        if matrix.shape != (3, channels) or offset.shape != (3,):
            raise ValueError(f"shapes {matrix.shape} and {offset.shape}, not (3, {channels}) and (3,)")
        if not (np.isfinite(matrix).all() and np.isfinite(offset).all()):
            raise ValueError("numbers that are not finite")
        return cls(matrix, offset)


IDENTITY = ColorMap(np.eye(3), np.zeros(3))
"""For a session whose latents are RGB in 0 … 1."""


def fit(latents: NDArray[np.floating], image: NDArray[np.uint8]) -> ColorMap:
    """The map with the least squared error.

    Args:
        latents: ``[C, h, w]``.
        image: uint8 ``[f h, f w, 3]``, decoded from them. A cell's color is the mean of its ``f`` × ``f`` pixels.
    """
    channels, height, width = latents.shape
    factor = image.shape[0] // height
    cells = image.reshape(height, factor, width, factor, 3).mean(axis=(1, 3)) / 255

    flat = latents.reshape(channels, -1).T.astype(np.float64)
    unknowns = np.hstack([flat, np.ones((len(flat), 1))])
    solution = np.linalg.lstsq(unknowns, cells.reshape(-1, 3), rcond=None)[0]
    return ColorMap(np.ascontiguousarray(solution[:-1].T), solution[-1])


def sample_image() -> NDArray[np.uint8]:
    """The image that maps are fitted to, uint8 ``[128, 128, 3]``, always the same.

    A checkerboard of soft color fields at many scales and of flat squares, so that all colors occur, gray and
    saturated, smooth and with edges.
    """
    rng = np.random.default_rng(0)
    fields = np.zeros((_SIDE, _SIDE, 3))
    for side in _FIELDS:
        coarse = rng.uniform(-1, 1, (side, side, 3)).astype(np.float32)
        fields += _enlarged(coarse) / np.sqrt(side)
    fields = (fields - fields.mean(axis=(0, 1))) / fields.std(axis=(0, 1))

    image = 127.5 + _CONTRAST * fields
    colors = rng.uniform(0, 255, (_SIDE // _SQUARE, _SIDE // _SQUARE, 3))
    squares = np.kron(colors, np.ones((_SQUARE, _SQUARE, 1)))
    position = np.arange(_SIDE) // (2 * _SQUARE)
    is_flat = np.add.outer(position, position) % 2 == 1
    image[is_flat] = squares[is_flat]
    levels: NDArray[np.uint8] = np.rint(image.clip(0, 255)).astype(np.uint8)
    return levels


def _enlarged(coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    size, bicubic = (_SIDE, _SIDE), Image.Resampling.BICUBIC
    planes = [Image.fromarray(coarse[:, :, channel]).resize(size, bicubic) for channel in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
