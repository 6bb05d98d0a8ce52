"""A diffusers folder, or a checkpoint in one file → the networks of one model, ready to run.

A folder is ::

    model_index.json   unet/   vae/   text_encoder/   tokenizer/   [text_encoder_2/   tokenizer_2/]
    scheduler/

Only safetensors are read, and nothing but the model's own files: no hub, no cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from intarsia.checkpoints.single_file import stored_model, stored_vae
from intarsia.checkpoints.stored import StoredModel, StoredNetwork, stored_network
from intarsia.errors import WeightsError, one_line, shown
from intarsia.models.autoencoder import Autoencoder
from intarsia.models.config_values import flag
from intarsia.models.lora import Additions
from intarsia.models.lora_files import read_loras
from intarsia.models.lora_torch import folding
from intarsia.models.text import TextEncoders
from intarsia.models.text_files import load_text, text_shapes
from intarsia.models.unet import UNet
from intarsia.models.unet_config import UNetConfig
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from intarsia.models.vae_tiny import AutoencoderTiny, TinyConfig
from intarsia.models.weight_files import check_size, fill, read_network, stored_tensors, tensor_shapes

_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
# Powers of two by which an autoencoder that overflows float16 is shrunk: then values up to 4e6 fit.
_SHRINK_POWER = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """The networks of one model, and the settings that are stored with them.

    Attributes:
        unet, vae, text: the networks, on one device.
        scheduler: ``scheduler_config.json``: noise schedule and prediction type; empty for a checkpoint.
        index: ``model_index.json``, or what it would say.
        stored: where the weights are; None for networks that were made otherwise.
        additions: of the LoRAs that are folded into the weights now.
        precision: ``fp8`` where products of the UNet are in e4m3 (:mod:`.float8`).
        precision_notes: sentences on products that are not.
    """

    unet: UNet
    vae: Autoencoder
    text: TextEncoders
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    stored: StoredModel | None = None
    additions: Additions = field(default_factory=Additions)
    precision: str = "standard"
    precision_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on parts of LoRA files that were left out."""
        return self.additions.notes

    @property
    def zero_empty_prompt(self) -> bool:
        """Whether an absent negative prompt is all zeros instead of the encoded empty prompt (SDXL)."""
        return flag("pipeline", self.index, "force_zeros_for_empty_prompt", False)


def check_index(path: Path, index: Mapping[str, Any]) -> None:
    """WeightsError where a value of a ``model_index.json``, the file at ``path``, is not usable."""
    with _naming(path):
        flag("pipeline", index, "force_zeros_for_empty_prompt", False)


def load_pipeline_parts(
    model: str | Path | StoredModel,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    vae_folder: Path | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Parts:
    """Load a model.

    Args:
        model: a diffusers folder, a checkpoint's file, or what
            :func:`~intarsia.checkpoints.single_file.stored_model` gives of one.
        device: where the networks go.
        dtype: what they compute in; weights stored otherwise are cast. An autoencoder whose config says
            ``force_upcast`` would overflow float16; it is rescaled (:meth:`AutoencoderKL.shrink`) where that was asked.
        vae_folder: an autoencoder in place of the model's own.
        loras: LoRA files and their strengths, folded into the weights of UNet and text encoders.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    stored = model if isinstance(model, StoredModel) else stored_model(Path(model), vae=vae_folder)
    device = torch.device(device)
    check_index(stored.path / "model_index.json", stored.index)
    additions = _additions(stored, loras)

    text = load_text(stored, device, dtype, additions)
    unet = load_unet(stored.networks["unet"], device, dtype, additions)
    _check_widths(stored.path, unet, text)
    vae = load_vae(stored.networks["vae"], device, dtype)
    return Parts(
        unet=unet,
        vae=vae,
        text=text,
        scheduler=stored.scheduler,
        index=stored.index,
        stored=stored,
        additions=additions,
    )


def _check_widths(path: Path, unet: UNet, text: TextEncoders) -> None:
    """WeightsError where a UNet is made for other text encoders."""
    widths = set(unet.config.cross_attention_dim)
    if widths != {text.width}:
        raise WeightsError(
            f"{path}: UNet's cross_attention_dim is {sorted(widths)}, the text encoders give {text.width}"
        )


def load_unet(
    stored: Path | StoredNetwork, device: torch.device, dtype: torch.dtype, additions: Additions | None = None
) -> UNet:
    """A UNet, with what LoRAs add to it: of a folder with ``config.json`` and weights, or as it is stored.

    WeightsError as above.
    """
    stored = _stored(stored)
    network = build_unet(stored)
    additions = additions or Additions()
    tensors = read_network(stored, device, dtype, folding(additions, "unet", device, dtype))
    return fill(network, tensors, stored.file)


def build_unet(stored: Path | StoredNetwork) -> UNet:
    """The UNet that a config describes, on the meta device; the number of its stored tensors is checked."""
    stored = _stored(stored)
    name = stored.config.get("_class_name", "UNet2DConditionModel")
    if name != "UNet2DConditionModel":
        raise WeightsError(f"{stored.source}: _class_name must be 'UNet2DConditionModel', not {shown(name)}")
    with _naming(stored.source):
        config = UNetConfig.from_dict(stored.config)
    check_size(stored.source, config.blocks, len(stored.places))
    with torch.device("meta"), _naming(stored.source):
        return UNet(config)


def _stored(stored: Path | StoredNetwork) -> StoredNetwork:
    """A folder as a stored UNet."""
    return stored_network(stored, "unet") if isinstance(stored, Path) else stored


def _stored_vae(stored: Path | StoredNetwork) -> StoredNetwork:
    return stored_vae(stored) if isinstance(stored, Path) else stored


def _additions(stored: StoredModel, loras: Sequence[tuple[Path, float]]) -> Additions:
    """The additions of LoRAs to a model's networks, checked against their shapes before any of them is loaded."""
    if not loras:
        return Additions()
    unet = build_unet(stored.networks["unet"])
    networks = {"unet": tensor_shapes(unet), **text_shapes(stored)}
    return read_loras(loras, networks, unet.config.layers_per_block[0], read=stored_tensors)


def load_vae(stored: Path | StoredNetwork, device: torch.device, dtype: torch.dtype) -> AutoencoderKL | AutoencoderTiny:
    """An autoencoder: of a folder, of a file, or as it is stored. ``_class_name`` in its config says which kind.

    WeightsError as above.
    """
    stored = _stored_vae(stored)
    network = fill(build_vae(stored), read_network(stored, device, dtype), stored.file)
    overflows = stored.config.get("force_upcast") is True
    if dtype == torch.float16 and overflows and isinstance(network, AutoencoderKL):
        network.shrink(_SHRINK_POWER)
    return network


def build_vae(stored: Path | StoredNetwork) -> AutoencoderKL | AutoencoderTiny:
    """The autoencoder that a config describes, on the meta device; the number of its stored tensors is checked."""
    stored = _stored_vae(stored)
    raw, source = stored.config, stored.source
    name = raw.get("_class_name", "AutoencoderKL")
    if name not in _AUTOENCODERS:
        raise WeightsError(f"{source}: _class_name must be {' or '.join(_AUTOENCODERS)}, not {shown(name)}")

    with _naming(source):
        config = TinyConfig.from_dict(raw) if name == "AutoencoderTiny" else KLConfig.from_dict(raw)
    check_size(source, config.blocks, len(stored.places))
    with torch.device("meta"), _naming(source):
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
