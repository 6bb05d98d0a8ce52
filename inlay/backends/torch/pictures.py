"""Pictures in and out of a session: 8-bit levels to latents and back, and pasting on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from inlay.backends.torch.device import upload
from inlay.backends.torch.memory import is_out_of_memory
from inlay.backends.torch.tiles import Tiling, in_tiles
from inlay.errors import NotFinite
from inlay.kernels.pixels import paste, to_levels
from inlay.models.autoencoder import Autoencoder

__all__ = ["Pictures"]


class Pictures:
    """An autoencoder at work. A size that does not fit into memory whole is done in smaller parts from then on.

    Attributes:
        notes: what was done in tiles, for results to say.
    """

    def __init__(self, vae: Autoencoder, device: torch.device, fused: bool | None) -> None:
        self._vae, self._device, self._fused = vae, device, fused
        self._dtype = next(cast(nn.Module, vae).parameters()).dtype
        # Pasting need not wait for what is under way on the main stream.
        self._aside: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._way: dict[tuple[str, int, int], int] = {}
        self.notes: tuple[str, ...] = ()

    def encode(self, levels: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents ``[C, h, w]`` of the image, and of the image with the mask grey (0 in -1…1).

        Args:
            levels: uint8 ``[H, W, 3]``. mask: bool ``[H, W]``, True is repainted.
        """
        vae = self._vae
        pixels = upload(levels.copy(), self._device)
        image = pixels.permute(2, 0, 1).to(self._dtype) / 127.5 - 1
        keep = upload(~mask, self._device)
        both = torch.stack([image, image * keep]).to(memory_format=torch.channels_last)
        tiling = Tiling(vae.factor, 1 / vae.factor, vae.latent_channels)
        ways: list[Callable[[], Tensor]] = [
            # One picture a call: half the peak memory, which the encoder's first level decides.
            lambda: torch.cat([vae.encode(each[None]) for each in both]),
            lambda: torch.cat([in_tiles(vae.encode, each[None], tiling) for each in both]),
        ]
        if self._device.type == "cuda":
            ways.insert(0, lambda: vae.encode(both))
        clean, masked = self._first_that_fits("encoded", mask.shape, ways)
        return clean, masked

    def decode(self, latents: Tensor) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``.

        Raises:
            NotFinite: the decoder's output is not; there is no picture in it.
        """
        vae = self._vae
        latents = latents.to(self._dtype).contiguous(memory_format=torch.channels_last)
        height, width = (vae.factor * side for side in latents.shape[2:])
        tiling = Tiling(1, vae.factor, 3)
        ways = [lambda: vae.decode(latents), lambda: in_tiles(vae.decode, latents, tiling)]
        picture = self._first_that_fits("decoded", (height, width), ways)
        if not bool(torch.isfinite(picture).all()):
            kind = str(self._dtype).removeprefix("torch.")
            raise NotFinite(f"the decoded picture has values that are not finite ({kind})")
        return to_levels(picture, fused=self._fused)[0].cpu().numpy()

    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``base + (over - base) · weights / 255``; see :func:`inlay.kernels.pixels.paste`.

        Args:
            base, over: uint8 ``[h, w, 3]``. weights: uint8 ``[h, w]``.
        """
        if base.size == 0:
            return base.copy()
        with nullcontext() if self._aside is None else torch.cuda.stream(self._aside):
            given = [upload(np.array(each), self._device) for each in (base, over, weights)]
            return paste(*given, fused=self._fused).cpu().numpy()

    def _first_that_fits(self, what: str, size: Sequence[int], ways: Sequence[Callable[[], Tensor]]) -> Tensor:
        """The first way that the device's memory suffices for; the last is in tiles, and its failure is raised."""
        height, width = size
        key = (what, height, width)
        while True:
            way = self._way.get(key, 0)
            try:
                return ways[way]()
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or way == len(ways) - 1:
                    raise
            # out here, where the exception does not hold on to what was computed any more
            self._way[key] = way + 1
            if way + 1 == len(ways) - 1:
                self.notes += (f"pictures of {width}x{height} are {what} in tiles: memory does not hold them whole",)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
