"""Previews: what an image becomes, as the network predicts it after an evaluation, small and without the decoder.

The engine's thread copies one combination of a lane's latents (:mod:`intarsia.engine.preview_copies`); the colors are
computed in the thread that asks for the image, when it asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia.backends.protocol import Inputs, Snapshot
from intarsia.engine.color_map import ColorMap
from intarsia.errors import BackendError, RequestError

__all__ = ["NOT_ASKED", "Preview", "StepPreviews", "Surroundings"]


class Surroundings:
    """What a request's previews show around the repainted area; shared by all of them.

    Args:
        inputs: the request's.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._image = inputs.image
        self.repainted: NDArray[np.bool_] = inputs.latent_mask > 0.5

    @cached_property
    def colors(self) -> NDArray[np.uint8]:
        """The image at the latents' size, uint8 ``[h, w, 3]``: the mean of each cell."""
        factor = self._image.shape[0] // self.repainted.shape[0]
        return np.asarray(Image.fromarray(self._image).reduce(factor))


@dataclass(frozen=True, eq=False)
class Preview:
    """One image on its way, on the host or on its way there."""

    latents: Snapshot
    color_map: ColorMap
    surroundings: Surroundings

    def image(self) -> Image.Image:
        """RGB, one pixel for each latent cell; what is not repainted is the request's image."""
        drawn = self.color_map.colors(self.latents())
        around, repainted = self.surroundings.colors, self.surroundings.repainted
        return Image.fromarray(np.where(repainted[:, :, None], drawn, around))


@dataclass(frozen=True, eq=False)
class StepPreviews:
    """The previews that came with one step.

    Attributes:
        samples: one for each image of the request; empty where there are none.
        missing: why there are none.
    """

    samples: tuple[Preview, ...] = ()
    missing: str = ""

    def image(self, sample: int) -> Image.Image:
        """See :meth:`intarsia.engine.result.Progress.preview`."""
        if not self.samples:
            raise BackendError(self.missing)
        if isinstance(sample, bool) or sample not in range(len(self.samples)):
            raise RequestError("sample", sample, f"a whole number between 0 and {len(self.samples) - 1}")
        return self.samples[sample].image()


NOT_ASKED = StepPreviews(missing="no previews were asked for: submit the request with preview_every")
