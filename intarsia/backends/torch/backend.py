"""Opens models and safety checkers on one torch device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from intarsia.backends.protocol import Opening
from intarsia.backends.torch.device import pick_device, pick_dtype, translated
from intarsia.backends.torch.precision import product_dtype
from intarsia.backends.torch.safety import TorchChecker
from intarsia.backends.torch.session import TorchSession
from intarsia.errors import WeightsError
from intarsia.execution import FP8, STANDARD
from intarsia.models.float8 import in_float8
from intarsia.models.ip_adapter import ImagePrompts
from intarsia.models.ip_adapter_files import load_ip_adapter
from intarsia.models.loading import Parts, load_pipeline_parts
from intarsia.models.text_files import import_encoders

__all__ = ["TorchBackend"]


class TorchBackend:
    """Opens models with torch on one device.

    Attributes:
        simulates: a CPU runs precision fp8 too, by its reference; for tests and for measuring what is lost.
    """

    simulates = False

    def __init__(self, device: str, deterministic: bool | None) -> None:
        self._device = pick_device(device)
        self.device = str(self._device)
        self.slots = 8
        self._deterministic = self._device.type == "cpu" if deterministic is None else deterministic

    def prepare(self) -> None:
        """See :class:`intarsia.backends.protocol.Prepares`."""
        import_encoders()
        torch.zeros(1, device=self._device)  # on a GPU the first allocation makes the context

    def open(self, opening: Opening) -> TorchSession:
        """Load a model's networks; a network that is not of the promised kind is a :class:`WeightsError`."""
        with translated(f"load {opening.model}", self._device):
            dtype = pick_dtype(self._device)
            self._product_dtype(opening.precision)  # asked before loading, which takes seconds
            parts = load_pipeline_parts(
                opening.folder, self._device, dtype, vae_folder=opening.vae_folder, loras=opening.loras
            )
            _check(opening, parts)
            adapter = opening.ip_adapter
            prompts = None if adapter is None else load_ip_adapter(adapter, parts.unet, self._device, dtype)
        choices = {"kernels": opening.kernels, "capture": opening.capture, "precision": opening.precision}
        session = self.open_parts(parts, prompts, **choices)
        session.opening = opening
        return session

    def open_parts(
        self,
        parts: Parts,
        image_prompts: ImagePrompts | None = None,
        *,
        kernels: str = "auto",
        capture: str = "auto",
        precision: str = STANDARD,
        convolutions: Sequence[str] = (),
    ) -> TorchSession:
        """A session on networks that are on the device already, wherever they came from; it may quantize them.

        Args:
            convolutions: of :class:`TorchSession`.
        """
        written = self._product_dtype(precision)
        if written is not None:
            with translated("quantize the UNet", self._device):
                parts = in_float8(parts, written)
        chosen: dict[str, Any] = {"kernels": kernels, "capture": capture, "convolutions": convolutions}
        return TorchSession(parts, self._device, self._deterministic, image_prompts, **chosen)

    def _product_dtype(self, precision: str) -> torch.dtype | None:
        """Of products in e4m3; None where the precision has none, an error where the device has none."""
        if precision != FP8:
            return None
        return product_dtype(self._device, pick_dtype(self._device), simulate=self.simulates)

    def open_checker(self, folder: Path) -> TorchChecker:
        """Load a safety checker."""
        return TorchChecker(folder, self._device)


def _check(opening: Opening, parts: Parts) -> None:
    """The networks are what the registry promises."""
    vae = opening.vae_folder or opening.model
    found = (
        (opening.model, "in_channels", parts.unet.config.in_channels),
        (vae, "latent_channels", parts.vae.latent_channels),
        (vae, "factor", parts.vae.factor),
    )
    for owner, name, value in found:
        promised = getattr(opening, name)
        if value != promised:
            raise WeightsError(
                f"{owner}: its files have {name} {value}, {opening.model}'s family in the registry promises {promised}"
            )
