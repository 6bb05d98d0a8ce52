"""The autoencoder at work: 8-bit images to latents and back, and pasting on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.backends.torch.capture import GraphCapturer
from intarsia.backends.torch.captured_calls import CapturedCalls, Function
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.memory import is_out_of_memory
from intarsia.backends.torch.tiles import Tiling, in_tiles
from intarsia.errors import NotFinite
from intarsia.kernels.pixels import paste, to_levels
from intarsia.models.autoencoder import Autoencoder

__all__ = ["VaeRunner"]

# Captured calls kept per session: eight sizes, in and out.
_CAPTURED_CALLS = 16
# Larger images are not captured. They keep a GPU busy for longer than their hundred launches take, and a graph holds on
# to all the memory that it computes in.
_MOST_CAPTURED_PIXELS = 1024 * 1536


_ONCE_MORE = "the VAE overflowed float16: the image was decoded once more in float32"


class _Work(NamedTuple):
    """What the autoencoder does, and for which image size in pixels."""

    kind: Literal["encoded", "decoded"]
    height: int
    width: int


class VaeRunner:
    """Encodes, decodes and blends. A size that does not fit into memory whole is done in smaller parts from then on.

    Args:
        fused: as in :mod:`intarsia.models.layers`.
        capturer: captures each size; None launches operations one by one, each time.
        free_others: frees what else was captured in this session; called when memory runs out.
        whole_pixels: larger images are done in tiles from the beginning, by a budget of memory; None has no such limit.

    Attributes:
        notes: what was done in tiles, or in float32, for results to say.
    """

    def __init__(
        self,
        vae: Autoencoder,
        device: torch.device,
        *,
        fused: bool | None,
        capturer: GraphCapturer | None = None,
        free_others: Callable[[], None] = lambda: None,
        whole_pixels: int | None = None,
    ) -> None:
        self._vae = vae
        self._whole_pixels = whole_pixels
        self._device = device
        self._fused = fused
        self._free_others = free_others
        self._dtype = next(cast(nn.Module, vae).parameters()).dtype

        # Pasting need not wait for what is under way on the main stream.
        self._paste_stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._paste_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

        self._captured = CapturedCalls(capturer, _CAPTURED_CALLS) if capturer else None
        self._attempts_failed: dict[_Work, int] = {}
        self.notes: tuple[str, ...] = ()

    def encode(self, levels: np.ndarray, mask: np.ndarray | None) -> Tensor:
        """Latents, float32: of the image, and behind it of the image with the mask gray (0 in -1…1).

        Args:
            levels: uint8 ``[H, W, 3]``.
            mask: bool ``[H, W]``, True is repainted; None leaves out the masked image.

        Returns:
            ``[2, C, h, w]``, ``[1, C, h, w]`` without a mask.
        """
        height, width = levels.shape[:2]
        inputs = [upload(levels.copy(), self._device)]
        if mask is not None:
            inputs.append(upload(~mask, self._device))

        # One image a call: half the peak memory, which the encoder's first level decides.
        ways: list[Function] = [self._encode_one_by_one, self._encode_in_tiles]
        if self._device.type == "cuda" and mask is not None:
            ways.insert(0, self._encode_together)
        (latents,) = self._first_that_fits(_Work("encoded", height, width), ways, inputs)
        return latents

    def decode(self, latents: Tensor) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``.

        An autoencoder that overflows float16, as SDXL's does, decodes the image once more in float32.

        Raises:
            NotFinite: the decoder's output is not; there is no image in it.
        """
        latent_height, latent_width = latents.shape[2:]
        factor = self._vae.factor
        work = _Work("decoded", factor * latent_height, factor * latent_width)
        ways: list[Function] = [self._decode_whole, self._decode_in_tiles]
        levels, is_finite = self._first_that_fits(work, ways, [latents])

        image = levels[0].cpu().numpy()  # the one wait for the device; what follows is there by then
        if bool(is_finite):
            return image
        if self._dtype == torch.float16 and bool(torch.isfinite(latents).all()):
            return self._decode_in_float32(latents)
        raise NotFinite(f"the decoded image has values that are not finite ({_name(self._dtype)})")

    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``base + (over - base) · weights / 255``; see :func:`intarsia.kernels.pixels.paste`.

        Args:
            base, over: uint8 ``[h, w, 3]``.
            weights: uint8 ``[h, w]``.
        """
        if base.size == 0:
            return base.copy()

        with self._on_paste_stream():
            inputs = [upload(np.array(array), self._device) for array in (base, over, weights)]
            pasted = paste(*inputs, fused=self._fused)
            return pasted.cpu().numpy()

    def free_graphs(self) -> None:
        """Release what was captured; a size that comes again is captured again."""
        if self._captured is not None:
            self._captured.clear()

    def _on_paste_stream(self) -> AbstractContextManager[object]:
        if self._paste_stream is None:
            return nullcontext()
        return torch.cuda.stream(self._paste_stream)

    def _encode_together(self, levels: Tensor, *kept: Tensor) -> tuple[Tensor]:
        images = self._images(levels, *kept)
        latents = self._vae.encode(images)
        return (latents.float(),)

    def _encode_one_by_one(self, levels: Tensor, *kept: Tensor) -> tuple[Tensor]:
        images = self._images(levels, *kept)
        latents = [self._vae.encode(image[None]) for image in images]
        return (torch.cat(latents).float(),)

    def _encode_in_tiles(self, levels: Tensor, *kept: Tensor) -> tuple[Tensor]:
        vae = self._vae
        tiling = Tiling(grain=vae.factor, scale=1 / vae.factor, channels=vae.latent_channels)
        images = self._images(levels, *kept)
        latents = [in_tiles(vae.encode, image[None], tiling) for image in images]
        return (torch.cat(latents),)

    def _images(self, levels: Tensor, *kept: Tensor) -> Tensor:
        """``[1 or 2, 3, H, W]`` in -1…1, rounded to the network's type once.

        Args:
            levels: uint8 ``[H, W, 3]``.
            kept: bool ``[H, W]``, False is gray in the second image; without it there is no second.
        """
        image = levels.permute(2, 0, 1).float() / 127.5 - 1
        masked = [image * pixels for pixels in kept]
        images = torch.stack([image, *masked])
        return images.to(self._dtype).contiguous(memory_format=torch.channels_last)

    def _decode_whole(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        images = self._vae.decode(self._decoder_input(latents))
        return self._levels(images)

    def _decode_in_tiles(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        tiling = Tiling(grain=1, scale=self._vae.factor, channels=3)
        images = in_tiles(self._vae.decode, self._decoder_input(latents), tiling)
        return self._levels(images)

    def _decode_in_float32(self, latents: Tensor) -> np.ndarray:
        """By a copy of the network that is there for as long: most images of such a model do not need it."""
        network = copy.deepcopy(cast(nn.Module, self._vae)).float()
        wide = VaeRunner(cast(Autoencoder, network), self._device, fused=self._fused, free_others=self._make_room)
        image = wide.decode(latents)
        if _ONCE_MORE not in self.notes:
            self.notes += (_ONCE_MORE,)
        return image

    def _decoder_input(self, latents: Tensor) -> Tensor:
        rounded = latents.to(self._dtype)
        return rounded.contiguous(memory_format=torch.channels_last)

    def _levels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 ``[B, H, W, 3]``, and whether all of the decoder's output is finite."""
        levels = to_levels(images, fused=self._fused)
        is_finite = torch.isfinite(images).all()
        return levels, is_finite

    def _first_that_fits(self, work: _Work, ways: Sequence[Function], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run the first way that fits into the device's memory; the last is in tiles, and its failure is raised."""
        ways = self._with_captured(work, ways)
        if self._is_over_budget(work) and work not in self._attempts_failed:
            self._attempts_failed[work] = len(ways) - 1
            self._note_tiles(work, "the memory budget")
        while True:
            index = self._attempts_failed.get(work, 0)
            try:
                return ways[index](*inputs)
            except RuntimeError as exc:
                if not is_out_of_memory(exc) or index == len(ways) - 1:
                    raise

            # Outside the `except`: its traceback would keep the failed tensors alive.
            self._attempts_failed[work] = index + 1
            if index + 1 == len(ways) - 1:
                self._note_tiles(work, "memory")
            self._make_room()

    def _with_captured(self, work: _Work, ways: Sequence[Function]) -> Sequence[Function]:
        """``ways``, before them the first of them captured, where this size is."""
        captured = self._captured
        if captured is None or work.height * work.width > _MOST_CAPTURED_PIXELS:
            return ways
        first = ways[0]
        return [lambda *tensors: captured.run(work, first, *tensors), *ways]

    def _is_over_budget(self, work: _Work) -> bool:
        return self._whole_pixels is not None and work.height * work.width > self._whole_pixels

    def _note_tiles(self, work: _Work, limit: str) -> None:
        size = f"{work.width}x{work.height}"
        self.notes += (f"images of {size} are {work.kind} in tiles: {limit} does not hold them whole",)

    def _make_room(self) -> None:
        self.free_graphs()
        self._free_others()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
