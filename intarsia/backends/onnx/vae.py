"""A model's autoencoder on ONNX Runtime, in tiles where a memory budget does not hold an image whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import onnxruntime as ort

from intarsia.backends.onnx.open_sessions import held
from intarsia.backends.onnx.state import Floats
from intarsia.backends.tile_spans import Tiling, ramp, scaled, spans

__all__ = ["VAE_GRAPHS", "OnnxVae", "in_tiles"]

VAE_GRAPHS = ("vae_encoder", "vae_decoder")


class OnnxVae:
    """Encoder and decoder.

    Args:
        open_graph: opens one of the model's graphs by its name.
        facts: of the model's graphs.
        whole_pixels: larger images are done in tiles; None has no such limit.

    Attributes:
        notes: what was done in tiles, for results to say.
    """

    def __init__(
        self, open_graph: Callable[[str], ort.InferenceSession], facts: Mapping[str, Any], whole_pixels: int | None
    ) -> None:
        self._encoder, self._decoder = map(open_graph, VAE_GRAPHS)
        self._whole_pixels = whole_pixels
        factor, channels = facts["factor"], facts["latent_channels"]
        self._factor = factor
        self._encoding = Tiling(grain=factor, scale=1 / factor, channels=channels)
        self._decoding = Tiling(grain=1, scale=factor, channels=3)
        self.notes: tuple[str, ...] = ()

    def encode(self, image: Floats) -> Floats:
        """``[3, H, W]`` in -1…1 → latents ``[C, h, w]``."""
        height, width = image.shape[1:]
        with self.encoder_held():
            if self._is_whole("encoded", height, width):
                latents = self._encode(image[None])
            else:
                latents = in_tiles(self._encode, image[None], self._encoding)
        first: Floats = latents[0]
        return first

    def decode(self, latents: Floats) -> Floats:
        """``[1, C, h, w]`` → ``[3, H, W]`` in -1…1, more or less."""
        height, width = (self._factor * count for count in latents.shape[2:])
        with self.decoder_held():
            if self._is_whole("decoded", height, width):
                images = self._decode(latents)
            else:
                images = in_tiles(self._decode, latents, self._decoding)
        first: Floats = images[0]
        return first

    def encoder_held(self) -> AbstractContextManager[None]:
        """Several images encoded within it take one encoder, where it is opened for each use."""
        return held(self._encoder)

    def decoder_held(self) -> AbstractContextManager[None]:
        """The same of images that are decoded."""
        return held(self._decoder)

    def _encode(self, images: Floats) -> Floats:
        latents: Floats = self._encoder.run(None, {"pictures": images})[0]
        return latents

    def _decode(self, latents: Floats) -> Floats:
        images: Floats = self._decoder.run(None, {"latents": latents})[0]
        return images

    def _is_whole(self, done: str, height: int, width: int) -> bool:
        if self._whole_pixels is None or height * width <= self._whole_pixels:
            return True
        note = f"images of {width}x{height} are {done} in tiles: the memory budget does not hold them whole"
        if note not in self.notes:
            self.notes += (note,)
        return False


def in_tiles(call: Callable[[Floats], Floats], whole: Floats, tiling: Tiling) -> Floats:
    """``call(whole)`` by overlapping tiles whose edges are blended; ``[B, C, H, W]`` → ``[B, C', H', W']``.

    As in the torch backend; norms are computed over one tile at a time.
    """
    batch, _, height, width = whole.shape
    sides = (round(height * tiling.scale), round(width * tiling.scale))
    total = np.zeros((batch, tiling.channels, *sides), np.float32)
    weights = np.zeros(sides, np.float32)

    for rows in spans(height, tiling.grain):
        for columns in spans(width, tiling.grain):
            output = call(np.ascontiguousarray(whole[:, :, rows, columns]))
            vertical = ramp(output.shape[2], tiling.edge)
            horizontal = ramp(output.shape[3], tiling.edge)
            soft = vertical[:, None] * horizontal

            place = (scaled(rows, tiling.scale), scaled(columns, tiling.scale))
            total[:, :, place[0], place[1]] += output * soft
            weights[place] += soft
    total /= weights
    return total
