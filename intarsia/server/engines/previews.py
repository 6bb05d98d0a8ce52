"""Previews of running jobs: how their images look by now, small, as text that goes into an event."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from intarsia.engine.result import Progress

__all__ = ["PREVIEW_EVERY", "Preview", "preview_of"]

PREVIEW_EVERY = 5
"""Network evaluations from one preview to the next, unless the client asks for another number; 0 is without."""


@dataclass(frozen=True)
class Preview:
    """The images of a job after a step, as data URIs of WebP, one for each sample."""

    step: int
    steps: int
    images: tuple[str, ...]


def preview_of(progress: Progress, samples: int) -> Preview:
    """Make the images that come with a step; a millisecond each, so not in the engine's thread.

    Raises:
        BackendError: the step has none.
    """
    images = tuple(_data_uri(progress.preview(sample)) for sample in range(samples))
    return Preview(progress.step, progress.steps, images)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
