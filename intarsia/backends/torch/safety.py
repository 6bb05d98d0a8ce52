"""A safety checker on a torch device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from intarsia.backends.torch.device import translated
from intarsia.models.safety import load_safety_checker

__all__ = ["TorchChecker"]


class TorchChecker:
    """One opened checker; see :class:`intarsia.backends.protocol.Checker`.

    Raises:
        WeightsError: a folder that is not a checker's.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device = device
        with translated("load the safety checker", device):
            self._checker = load_safety_checker(folder, device)

    def check(self, images: Sequence[np.ndarray]) -> list[bool]:
        # a GPU's convolutions would round float32 to ten bits, and decide otherwise than a CPU now and then
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with translated("check an image", self._device), exact:
            return self._checker.check(images)

    def close(self) -> None:
        """Forget the weights; device memory goes back to its allocator."""
        del self._checker
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
