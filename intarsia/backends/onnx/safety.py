"""A safety checker on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from intarsia.backends.onnx.device import Device, translated
from intarsia.backends.onnx.graphs import GraphFolder
from intarsia.errors import BackendError
from intarsia.models.clip_images import Floats, flagged, load_preprocessing

__all__ = ["OnnxChecker"]


class OnnxChecker:
    """One opened checker; see :class:`intarsia.backends.protocol.Checker`."""

    def __init__(self, graphs: GraphFolder, device: Device) -> None:
        self._device = device
        self._preprocessing = load_preprocessing(graphs.weights / "preprocessor_config.json")
        content = graphs.read("safety")
        with translated("load the safety checker", device):
            self._session = device.open(content, graphs.root)

    def check(self, images: Sequence[np.ndarray]) -> list[bool]:
        """Whether each image is flagged; see :class:`intarsia.backends.protocol.Checker`."""
        with translated("check an image", self._device):
            return [self._is_flagged(image) for image in images]

    def close(self) -> None:
        """Forget the session."""
        del self._session

    def _is_flagged(self, image: np.ndarray) -> bool:
        """Whether one of its squares is."""
        return any(any(self._decide(pixels)) for pixels in self._preprocessing.batches(image))

    def _decide(self, pixels: Floats) -> list[bool]:
        special, concepts = self._session.run(None, {"pixels": pixels})
        if not np.isfinite(concepts).all():
            raise BackendError("the safety checker's embedding of an image is not finite")
        return flagged(special, concepts)
