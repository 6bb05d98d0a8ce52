"""Text encoders that take memory of their device only while they are used, where memory is short.

From a GPU they go to the host's memory; on a CPU they are released and read again from their files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from intarsia.backends.device_memory import release_freed
from intarsia.models.loading import Parts
from intarsia.models.text_files import load_text

__all__ = ["TextMemory"]


class TextMemory:
    """The text encoders of one session.

    Args:
        parts: gives the session's networks as they are now, LoRAs included.
        releases: they leave the device; else they stay.
    """

    def __init__(self, parts: Callable[[], Parts], device: torch.device, dtype: torch.dtype, *, releases: bool) -> None:
        self._parts = parts
        self._device = device
        self._dtype = dtype
        self.releases = releases and (device.type != "cpu" or parts().stored is not None)
        if self.releases:
            self._release()

    @contextmanager
    def present(self) -> Iterator[None]:
        """The encoders are on the device inside of it."""
        if not self.releases:
            yield
            return
        try:
            self._bring()
            yield
        finally:
            self._release()

    # Outside of inference mode, or the weights could not be changed in place later.
    @torch.inference_mode(False)
    def _bring(self) -> None:
        parts = self._parts()
        if self._device.type != "cpu":
            for tower in parts.text.towers:
                tower.model.to(self._device)
            return

        if parts.stored is None:
            raise AssertionError("text encoders without files are not released on a CPU")
        read = load_text(parts.stored, self._device, self._dtype, parts.additions)
        for tower, fresh in zip(parts.text.towers, read.towers, strict=True):
            for weight, values in zip(tower.model.parameters(), fresh.model.parameters(), strict=True):
                weight.data = values.data

    @torch.inference_mode(False)
    def _release(self) -> None:
        towers = self._parts().text.towers
        if self._device.type != "cpu":
            for tower in towers:
                tower.model.to("cpu")
            torch.cuda.empty_cache()
            return

        for tower in towers:
            for weight in tower.model.parameters():
                weight.data = torch.empty(0, dtype=weight.dtype)
        release_freed()
