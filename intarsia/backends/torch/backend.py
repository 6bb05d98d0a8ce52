"""Opens models and safety checkers on one torch device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from intarsia.backends.device_memory import host_bytes
from intarsia.backends.memory_plan import MemoryPlan, NetworkSizes, plan_memory
from intarsia.backends.protocol import ModelFiles
from intarsia.backends.torch.device import pick_device, pick_dtype, translated
from intarsia.backends.torch.precision import product_dtype
from intarsia.backends.torch.regions import MergingVariant
from intarsia.backends.torch.safety import TorchChecker
from intarsia.backends.torch.session import TorchSession
from intarsia.checkpoints.single_file import stored_model
from intarsia.errors import WeightsError
from intarsia.execution import FP8, STANDARD, Execution, Precision
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

    def __init__(self, device: str, execution: Execution) -> None:
        self._device = pick_device(device)
        self._execution = execution
        self.device = str(self._device)
        self.slots = 8

    def prepare(self) -> None:
        """See :class:`intarsia.backends.protocol.Prepares`."""
        import_encoders()
        torch.zeros(1, device=self._device)  # on a GPU the first allocation makes the context

    def open(self, files: ModelFiles) -> TorchSession:
        """Load a model's networks; a network that is not of the promised kind is a :class:`WeightsError`."""
        with translated(f"load {files.model}", self._device):
            dtype = pick_dtype(self._device)
            self._product_dtype(files.precision)  # refused before loading, which takes seconds
            stored = stored_model(
                files.folder,
                family=files.family,
                vae=files.vae_folder,
                text=files.text,
                tokenizer=files.tokenizer,
            )
            memory = self._memory(NetworkSizes.of(stored, files), dtype)
            parts = load_pipeline_parts(stored, self._device, dtype, loras=files.loras)
            _check(files, parts)

            image_prompts = None
            if files.ip_adapter is not None:
                image_prompts = load_ip_adapter(files.ip_adapter, parts.unet, self._device, dtype, files.image_encoder)
        return self.open_parts(parts, image_prompts, files=files, precision=files.precision, memory=memory)

    def open_parts(
        self,
        parts: Parts,
        image_prompts: ImagePrompts | None = None,
        *,
        files: ModelFiles | None = None,
        precision: Precision = STANDARD,
        merging: MergingVariant = MergingVariant(),
        convolutions: Sequence[str] = (),
        memory: MemoryPlan | None = None,
    ) -> TorchSession:
        """A session on networks that are on the device already, wherever they came from; it may quantize them.

        Args:
            files, merging, convolutions, memory: of :class:`TorchSession`.
        """
        written = self._product_dtype(precision)
        if written is not None:
            with translated("quantize the UNet", self._device):
                parts = in_float8(parts, written)

        return TorchSession(
            parts,
            self._device,
            self._execution,
            image_prompts,
            files=files,
            merging=merging,
            convolutions=convolutions,
            memory=memory,
        )

    def _memory(self, sizes: NetworkSizes, dtype: torch.dtype) -> MemoryPlan:
        """What to do about memory; on a CPU lanes are evaluated one by one, however many there are."""
        is_cuda = self._device.type == "cuda"
        return plan_memory(
            sizes,
            budget=self._execution.memory,
            device=torch.cuda.get_device_properties(self._device).total_memory if is_cuda else host_bytes(),
            value_bytes=dtype.itemsize,
            most_slots=self.slots if is_cuda else None,
        )

    def _product_dtype(self, precision: Precision) -> torch.dtype | None:
        """Of products in e4m3; None where the precision has none, an error where the device has none."""
        if precision != FP8:
            return None
        dtype = pick_dtype(self._device)
        return product_dtype(self._device, dtype, simulate=self.simulates)

    def open_checker(self, folder: Path) -> TorchChecker:
        """Load a safety checker."""
        return TorchChecker(folder, self._device)


def _check(files: ModelFiles, parts: Parts) -> None:
    """The networks are what the registry promises; else :class:`WeightsError`."""
    vae = files.vae_folder or files.model
    properties = (
        (files.model, "in_channels", parts.unet.config.in_channels),
        (vae, "latent_channels", parts.vae.latent_channels),
        (vae, "factor", parts.vae.factor),
    )
    for owner, name, value in properties:
        promised = getattr(files, name)
        if value != promised:
            raise WeightsError(
                f"{owner}: its files have {name} {value}, {files.model}'s family in the registry promises {promised}"
            )
