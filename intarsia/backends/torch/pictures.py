"""Pictures in and out of a session: 8-bit levels to latents and back, and pasting on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.backends.torch.capture import Recorder
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.memory import is_out_of_memory
from intarsia.backends.torch.recorded import Function, Recordings
from intarsia.backends.torch.tiles import Tiling, in_tiles
from intarsia.errors import NotFinite
from intarsia.kernels.pixels import paste, to_levels
from intarsia.models.autoencoder import Autoencoder

__all__ = ["Pictures"]

# Recordings kept per session: eight sizes, in and out.
_RECORDINGS = 16
# Larger pictures are not recorded. They keep a GPU busy for longer than their hundred launches take, and a recording
# holds on to all the memory that it computes in.
_LARGEST = 1024 * 1536


class Pictures:
    """An autoencoder at work. A size that does not fit into memory whole is done in smaller parts from then on.

    Args:
        recorder: what records it, size by size; None launches its operations one by one, each time.
        relieve: lets go of what else was recorded in this session; called when memory runs out.

    Attributes:
        notes: what was done in tiles, for results to say.
    """

    def __init__(
        self,
        vae: Autoencoder,
        device: torch.device,
        fused: bool | None,
        recorder: Recorder | None = None,
        relieve: Callable[[], None] = lambda: None,
    ) -> None:
        self._vae, self._device, self._fused, self._relieve = vae, device, fused, relieve
        self._dtype = next(cast(nn.Module, vae).parameters()).dtype
        # Pasting need not wait for what is under way on the main stream.
        self._aside: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._recordings = Recordings(recorder, _RECORDINGS) if recorder else None
        self._way: dict[tuple[str, int, int], int] = {}
        self.notes: tuple[str, ...] = ()

    def encode(self, levels: np.ndarray, mask: np.ndarray | None) -> Tensor:
        """Latents, float32: of the image, and behind it of the image with the mask grey (0 in -1…1).

        Args:
            levels: uint8 ``[H, W, 3]``.
            mask: bool ``[H, W]``, True is repainted; None where the masked image is not wanted.

        Returns:
            ``[2, C, h, w]``, ``[1, C, h, w]`` without a mask.
        """
        given = [upload(levels.copy(), self._device)]
        if mask is not None:
            given.append(upload(~mask, self._device))
        # One picture a call: half the peak memory, which the encoder's first level decides.
        ways: list[Function] = [self._encode_one_by_one, self._encode_in_tiles]
        if self._device.type == "cuda" and mask is not None:
            ways.insert(0, self._encode_together)
        (latents,) = self._first_that_fits(("encoded", *levels.shape[:2]), ways, given)
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``.

        Raises:
            NotFinite: the decoder's output is not; there is no picture in it.
        """
        height, width = (self._vae.factor * side for side in latents.shape[2:])
        ways: list[Function] = [self._decode_whole, self._decode_in_tiles]
        levels, finite = self._first_that_fits(("decoded", height, width), ways, [latents])
        picture = levels[0].cpu().numpy()  # the one wait for the device; what follows is there by then
        if not bool(finite):
            kind = str(self._dtype).removeprefix("torch.")
            raise NotFinite(f"the decoded picture has values that are not finite ({kind})")
        return picture

    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``base + (over - base) · weights / 255``; see :func:`intarsia.kernels.pixels.paste`.

        Args:
            base, over: uint8 ``[h, w, 3]``. weights: uint8 ``[h, w]``.
        """
        if base.size == 0:
            return base.copy()
        with nullcontext() if self._aside is None else torch.cuda.stream(self._aside):
            given = [upload(np.array(each), self._device) for each in (base, over, weights)]
            return paste(*given, fused=self._fused).cpu().numpy()

    def let_go(self) -> None:
        """Forget what was recorded; a size that comes again is recorded again."""
        if self._recordings is not None:
            self._recordings.clear()

    def _encode_together(self, levels: Tensor, *keep: Tensor) -> tuple[Tensor]:
        return (self._vae.encode(self._images(levels, *keep)).float(),)

    def _encode_one_by_one(self, levels: Tensor, *keep: Tensor) -> tuple[Tensor]:
        return (torch.cat([self._vae.encode(each[None]) for each in self._images(levels, *keep)]).float(),)

    def _encode_in_tiles(self, levels: Tensor, *keep: Tensor) -> tuple[Tensor]:
        vae, images = self._vae, self._images(levels, *keep)
        tiling = Tiling(vae.factor, 1 / vae.factor, vae.latent_channels)
        return (torch.cat([in_tiles(vae.encode, each[None], tiling) for each in images]),)

    def _images(self, levels: Tensor, *keep: Tensor) -> Tensor:
        """uint8 ``[H, W, 3]``, bool ``[H, W]`` → ``[1 or 2, 3, H, W]`` in -1…1, rounded to the network's type once."""
        image = levels.permute(2, 0, 1).float() / 127.5 - 1
        both = torch.stack([image, *(image * each for each in keep)])
        return both.to(self._dtype).contiguous(memory_format=torch.channels_last)

    def _decode_whole(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self._levels(self._vae.decode(self._scaled(latents)))

    def _decode_in_tiles(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self._levels(in_tiles(self._vae.decode, self._scaled(latents), Tiling(1, self._vae.factor, 3)))

    def _scaled(self, latents: Tensor) -> Tensor:
        return latents.to(self._dtype).contiguous(memory_format=torch.channels_last)

    def _levels(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[B, H, W, 3]``, and whether all of the decoder's output is finite."""
        return to_levels(picture, fused=self._fused), torch.isfinite(picture).all()

    def _first_that_fits(
        self, key: tuple[str, int, int], ways: Sequence[Function], given: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The first way that the device's memory suffices for; the last is in tiles, and its failure is raised."""
        what, height, width = key
        recordings = self._recordings
        if recordings is not None and height * width <= _LARGEST:
            whole = ways[0]
            ways = [lambda *tensors: recordings.run(key, whole, *tensors), *ways]
        while True:
            way = self._way.get(key, 0)
            try:
                return ways[way](*given)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or way == len(ways) - 1:
                    raise
            # out here, where the exception does not hold on to what was computed any more
            self._way[key] = way + 1
            if way + 1 == len(ways) - 1:
                self.notes += (f"pictures of {width}x{height} are {what} in tiles: memory does not hold them whole",)
            self.let_go()
            self._relieve()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
