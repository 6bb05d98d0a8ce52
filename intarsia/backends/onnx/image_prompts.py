"""An IP adapter on ONNX Runtime: its image encoder, and the network's keys and values of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from intarsia.backends.onnx.open_sessions import held
from intarsia.backends.onnx.state import Floats
from intarsia.models.image_prompt import encoder_pixels

__all__ = ["IMAGE_GRAPHS", "ImagePrompts"]

IMAGE_GRAPHS = ("image_encoder", "image_context")


class ImagePrompts:
    """One adapter for one model.

    Args:
        facts: of its graphs.
        open_graph: opens one of them by its name.
    """

    def __init__(self, facts: Mapping[str, Any], open_graph: Callable[[str], ort.InferenceSession]) -> None:
        self._size = int(facts["image_size"])
        self._resamples = bool(facts["resamples"])
        self._encoder, self._context = map(open_graph, IMAGE_GRAPHS)

    def image_kv(self, image: np.ndarray, scale: float) -> Floats:
        """Keys and values ``[2, m, K]`` of uint8 ``[H, W, 3]``: of no image (the unconditional branch), and of it."""
        pixels = encoder_pixels(image, self._size)
        with held(self._encoder):
            features = self._features(pixels)
            # as the adapters were trained: no image has no embedding, but patches of what is gray
            nothing = self._features(np.zeros_like(pixels)) if self._resamples else np.zeros_like(features)
        with held(self._context):
            return np.concatenate([self._kv(each, scale) for each in (nothing, features)])

    def _features(self, pixels: Floats) -> Floats:
        features: Floats = self._encoder.run(None, {"pixels": pixels})[0]
        return features

    def _kv(self, features: Floats, scale: float) -> Floats:
        inputs = {"features": features, "scale": np.array([scale], np.float32)}
        image_kv: Floats = self._context.run(None, inputs)[0]
        return image_kv
