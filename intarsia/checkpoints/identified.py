"""What a file or a folder is: its kind, the families that it fits, and why it cannot be used, if so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from intarsia.checkpoints.header import StoredTensor

__all__ = ["SD1", "SD2", "SDXL", "TINY", "Identified", "Kind", "Prediction", "main_dtype", "version_of"]

Kind = Literal["checkpoint", "unet", "folder", "vae", "lora", "embedding", "ip_adapter", "safety", "other"]
"""A checkpoint has all of a model, or all but its VAE or text encoders; a folder is diffusers' form of either."""

Prediction = Literal["", "epsilon", "v_prediction"]

SD1 = ("sd15", "sd15-inpaint")
SD2 = ("sd21", "sd21-inpaint")
SDXL = ("sdxl", "sdxl-inpaint")
"""Families by the version of Stable Diffusion: with 4 input channels, and with 9."""

TINY = ("tiny", "tiny-inpaint")
"""The same of the models that are packaged."""


@dataclass(frozen=True, kw_only=True)
class Identified:
    """What a header, or a folder's configs, say.

    Attributes:
        what: the same in words, for a sentence: "an SDXL checkpoint", "a ControlNet".
        families: a model's own one; those that a part fits, empty where nothing tells.
        prediction: what the UNet predicts; "" of what has none.
        zero_terminal_snr: it was trained with a noise schedule that ends in pure noise (Lin et al. 2024).
        dtype: the type that most of its bytes have, by safetensors' name; "" where nothing was looked at.
        components: networks in it, of ``unet``, ``text``, ``text_2``, ``vae``, ``ema``.
        size: bytes of the file, or of the files in the folder that would be read.
        refused: why it cannot be used; "" where it can.
        title: the name that its maker wrote into it.
    """

    path: Path
    kind: Kind
    what: str
    families: tuple[str, ...] = ()
    prediction: Prediction = ""
    zero_terminal_snr: bool = False
    dtype: str = ""
    components: tuple[str, ...] = ()
    size: int = 0
    refused: str = ""
    title: str = ""

    @property
    def family(self) -> str:
        """The one family of a model; "" where there is none, or several."""
        return self.families[0] if len(self.families) == 1 else ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Networks that the model needs and that are not in the file or folder."""
        if self.kind not in ("checkpoint", "unet", "folder"):
            return ()
        needed = ["unet", "text", "vae"]
        if self.family in SDXL:
            needed.insert(2, "text_2")
        return tuple(name for name in needed if name not in self.components)


def main_dtype(tensors: Iterable[StoredTensor]) -> str:
    """The type that has most bytes; "" of no tensors."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.end - tensor.start
    return max(sizes, key=lambda dtype: sizes[dtype], default="")


def version_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The families of the version of Stable Diffusion that trainers wrote into a file; empty where they wrote none.

    The keys are ``modelspec.architecture`` (Stability-AI/ModelSpec) and ``ss_base_model_version`` (kohya's scripts).
    """
    architecture = metadata.get("modelspec.architecture", "")
    base = metadata.get("ss_base_model_version", "")
    for text in (architecture.lower(), base.lower()):
        if text.startswith(("stable-diffusion-xl", "sdxl")):
            return SDXL
        if text.startswith(("stable-diffusion-v2", "sd_v2", "sd_2")):
            return SD2
        if text.startswith(("stable-diffusion-v1", "sd_v1", "sd_1")):
            return SD1
    return ()
