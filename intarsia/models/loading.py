"""A diffusers folder → the networks of one model, ready to run.

::

    model_index.json   unet/   vae/   text_encoder/   tokenizer/   [text_encoder_2/   tokenizer_2/]
    scheduler/

Only safetensors are read, and nothing but this folder: no hub, no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.layout import COMPONENTS, SCHEDULER, find_weights
from intarsia.errors import WeightsError, one_line, shown
from intarsia.models.autoencoder import Autoencoder
from intarsia.models.config_values import flag
from intarsia.models.lora import Additions
from intarsia.models.lora_files import read_loras
from intarsia.models.text import TextEncoders
from intarsia.models.text_files import load_text, text_shapes
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig, modern_names
from intarsia.models.vae_tiny import AutoencoderTiny, TinyConfig
from intarsia.models.weight_files import check_size, fill, read_tensors, tensor_shapes

_STEM = COMPONENTS["unet"]
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
# Powers of two by which an autoencoder that overflows float16 is shrunk: then values up to 4e6 fit.
_SHRINK_POWER = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """The networks of one model, and the settings in its folder.

    Attributes:
        unet, vae, text: the networks, on one device.
        scheduler: ``scheduler_config.json``: noise schedule and prediction type.
        index: ``model_index.json``.
        changed: layers that LoRAs were folded into, by network.
        notes: sentences on parts of LoRA files that were left out.
        precision: ``fp8`` where products of the UNet are in e4m3 (:mod:`.float8`).
        precision_notes: sentences on products that are not.
    """

    unet: UNet
    vae: Autoencoder
    text: TextEncoders
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    changed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    precision: str = "standard"
    precision_notes: tuple[str, ...] = ()

    @property
    def zero_empty_prompt(self) -> bool:
        """Whether an absent negative prompt is all zeros instead of the encoded empty prompt (SDXL)."""
        return flag("pipeline", self.index, "force_zeros_for_empty_prompt", False)


def read_index(folder: Path) -> dict[str, Any]:
    """A model's ``model_index.json``; WeightsError where it is unreadable or a value in it is not usable."""
    path = folder / "model_index.json"
    index = read_json(path)
    with _naming(path):
        flag("pipeline", index, "force_zeros_for_empty_prompt", False)
    return index


def load_pipeline_parts(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    vae_folder: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Parts:
    """Load a diffusers folder.

    Args:
        folder: the folder that holds ``model_index.json``.
        device: where the networks go.
        dtype: what they compute in; weights stored otherwise are cast. An autoencoder whose config says
            ``force_upcast`` would overflow float16; it is rescaled (:meth:`AutoencoderKL.shrink`) where that was asked.
        vae_folder: an autoencoder in place of the folder's own.
        loras: LoRA files and their strengths, folded into the weights of UNet and text encoders.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    folder, device = Path(folder), torch.device(device)
    index = read_index(folder)
    scheduler = read_json(folder / SCHEDULER)
    additions = _additions(folder, loras)

    text = load_text(folder, device, dtype, additions)
    unet = load_unet(folder / "unet", device, dtype, additions)
    _check_widths(folder, unet, text)
    vae = load_vae(vae_folder or folder / "vae", device, dtype)
    return Parts(
        unet=unet,
        vae=vae,
        text=text,
        scheduler=scheduler,
        index=index,
        changed=additions.layers,
        notes=additions.notes,
    )


def _check_widths(folder: Path, unet: UNet, text: TextEncoders) -> None:
    """WeightsError where a UNet is made for other text encoders."""
    widths = set(unet.config.cross_attention_dim)
    if widths != {text.width}:
        raise WeightsError(
            f"{folder}: UNet's cross_attention_dim is {sorted(widths)}, the text encoders give {text.width}"
        )


def load_unet(folder: Path, device: torch.device, dtype: torch.dtype, additions: Additions | None = None) -> UNet:
    """The UNet of a folder with ``config.json`` and weights, with what LoRAs add to it. WeightsError as above."""
    network = build_unet(folder)
    files = find_weights(folder, _STEM)
    additions = additions or Additions()
    tensors = read_tensors(files, device, dtype, additions.to("unet", device))
    return fill(network, tensors, files[0])


def build_unet(folder: Path) -> UNet:
    """The UNet that a folder's config describes, on the meta device; the size of its weight files is checked."""
    config = _unet_config(folder)
    check_size(folder / "config.json", config.blocks, find_weights(folder, _STEM))
    with torch.device("meta"), _naming(folder / "config.json"):
        return UNet(config)


def _unet_config(folder: Path) -> UNetConfig:
    path = folder / "config.json"
    raw = read_json(path)
    name = raw.get("_class_name", "UNet2DConditionModel")
    if name != "UNet2DConditionModel":
        raise WeightsError(f"{path}: _class_name must be 'UNet2DConditionModel', not {shown(name)}")
    with _naming(path):
        return UNetConfig.from_dict(raw)


def _additions(folder: Path, loras: Sequence[tuple[Path, float]]) -> Additions:
    """The additions of LoRAs to a model's networks, checked against their shapes before any of them is loaded."""
    if not loras:
        return Additions()
    unet = build_unet(folder / "unet")
    networks = {"unet": tensor_shapes(unet), **text_shapes(folder)}
    additions = read_loras(loras, unet.config.layers_per_block[0])
    return additions.fitted(networks)


def load_vae(folder: Path, device: torch.device, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
    """The autoencoder of a folder; ``_class_name`` in its config says which kind. WeightsError as above."""
    network = build_vae(folder)
    files = find_weights(folder, _STEM)
    tensors = modern_names(read_tensors(files, device, dtype))
    network = fill(network, tensors, files[0])

    config = read_json(folder / "config.json")
    overflows = config.get("force_upcast") is True
    if dtype == torch.float16 and overflows and isinstance(network, AutoencoderKL):
        network.shrink(_SHRINK_POWER)
    return network


def build_vae(folder: Path) -> AutoencoderKL | AutoencoderTiny:
    """The autoencoder of a folder's config, on the meta device; the size of its weight files is checked."""
    path = folder / "config.json"
    raw = read_json(path)
    name = raw.get("_class_name", "AutoencoderKL")
    if name not in _AUTOENCODERS:
        raise WeightsError(f"{path}: _class_name must be {' or '.join(_AUTOENCODERS)}, not {shown(name)}")

    with _naming(path):
        config = TinyConfig.from_dict(raw) if name == "AutoencoderTiny" else KLConfig.from_dict(raw)
    check_size(path, config.blocks, find_weights(folder, _STEM))
    with torch.device("meta"), _naming(path):
        return AutoencoderTiny(config) if isinstance(config, TinyConfig) else AutoencoderKL(config)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about a config get the path of its file; values of the wrong type become such errors."""
    try:
        yield
    except WeightsError as exc:
        raise WeightsError(f"{path}: {exc}") from exc
    except (TypeError, ValueError, IndexError, ArithmeticError, RuntimeError) as exc:
        raise WeightsError(f"{path}: not a usable config: {one_line(exc)}") from exc
