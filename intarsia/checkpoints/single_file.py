"""A checkpoint in one safetensors file, in the original code's layout, as a :class:`~.stored.StoredModel`.

Only the header is read here. What no tensor tells (activations, what tokens are padded with, how latents are scaled) is
the same in all models of a version of Stable Diffusion, and known by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intarsia.checkpoints.checkpoint_kinds import UNET_PREFIXES
from intarsia.checkpoints.clip_names import (
    open_clip_config,
    open_clip_places,
    transformers_config,
    transformers_names,
)
from intarsia.checkpoints.header import Header, StoredTensor, read_header
from intarsia.checkpoints.identified import SD1, SD2, SDXL
from intarsia.checkpoints.probe import identify_header
from intarsia.checkpoints.stored import (
    TEXT_ENCODERS,
    Padding,
    Place,
    StoredModel,
    StoredNetwork,
    stored_folder,
    stored_text_folders,
    stored_vae_folder,
)
from intarsia.checkpoints.unet_names import OriginalUNet
from intarsia.checkpoints.vae_names import diffusers_vae_names, vae_config
from intarsia.errors import WeightsError

__all__ = ["stored_file", "stored_model", "stored_vae"]

_VAE_PREFIXES = ("first_stage_model.", "")
_VAE_FIRST = "encoder.down_blocks.0.resnets.0.conv1.weight"

# How the names of a UNet's tensors begin in a file without a prefix, where other tensors may lie beside them.
_UNET_TOP = {"input_blocks", "middle_block", "output_blocks", "out", "time_embed", "label_emb"}

# Standard deviation that latents are brought to: of the autoencoder of Stable Diffusion 1 and 2, and of SDXL's.
_SCALING, _SCALING_XL = 0.18215, 0.13025

_TRANSFORMERS = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP: dict[tuple[str, ...], str] = {SD2: "cond_stage_model.model.", SDXL: "conditioner.embedders.1.model."}

# What the tokenizers of the text encoders fill prompts up with.
_END: Padding = "<|endoftext|>"
_ZERO: Padding = "!"


def stored_model(
    path: Path, *, family: str = "", vae: Path | None = None, text: Path | None = None, tokenizer: Path | None = None
) -> StoredModel:
    """A model: a diffusers folder or a checkpoint, with parts of others in place of its own.

    Args:
        family: of the registry's; it decides how latents of a VAE without a config are scaled.
        vae: folder or file of an autoencoder.
        text: folder or checkpoint of the model whose text encoders and tokenizers it has.
        tokenizer: folder of a tokenizer for every text encoder.

    Raises:
        WeightsError: anything missing, unreadable or of another kind; one line that names the file.
    """
    if path.is_file():
        model = stored_file(path)
    else:
        model = stored_folder(path, with_vae=vae is None, with_text=text is None)
    networks, tokenizers = dict(model.networks), dict(model.tokenizers)
    if vae is not None:
        networks["vae"] = stored_vae(vae, family)
    if text is not None:
        encoders, tokenizers = _text_of(text)
        networks = {name: network for name, network in networks.items() if name in ("unet", "vae")}
        networks |= encoders
    if tokenizer is not None:
        tokenizers = dict.fromkeys(tokenizers, tokenizer)

    if "vae" not in networks:
        raise WeightsError(f"{path}: has no VAE; name another's with the key vae of its entry")
    if not tokenizers:
        raise WeightsError(f"{path}: has no text encoder; name another model's with the key text of its entry")
    return StoredModel(
        path=path, networks=networks, tokenizers=tokenizers, scheduler=model.scheduler, index=model.index
    )


def stored_vae(path: Path, family: str = "") -> StoredNetwork:
    """An autoencoder: a diffusers folder, or one file in the original code's names or in diffusers'.

    Args:
        family: of the model that it is for; nothing in a file tells how its latents are scaled.
    """
    if not path.is_file():
        return stored_vae_folder(path)
    header = read_header(path)
    found = _vae(header, is_xl=family in SDXL)
    if found is None:
        raise WeightsError(f"{path}: is no autoencoder of Stable Diffusion: it has no {_VAE_FIRST}")
    return found


def _text_of(path: Path) -> tuple[Mapping[str, StoredNetwork], dict[str, Path | Padding]]:
    """The text encoders of a model, which may lack other networks, and their tokenizers."""
    if not path.is_file():
        return stored_text_folders(path)
    model = stored_file(path)
    return model.text_encoders, dict(model.tokenizers)


def stored_file(path: Path) -> StoredModel:
    """The networks that are in a checkpoint's file, which may lack text encoders and VAE.

    Raises:
        WeightsError: it is unreadable, or no model that runs here.
    """
    header = read_header(path)
    found = identify_header(header)
    if found.refused:
        raise WeightsError(f"{header.path}: {found.what} cannot be used: {found.refused}")
    if "unet" not in found.components or not found.family:
        raise WeightsError(f"{header.path}: is {found.what}, not a model")

    version = next(families for families in (SD1, SD2, SDXL) if found.family in families)
    networks = {"unet": _unet(header), **_text_encoders(header, version)}
    vae = _vae(header, is_xl=version == SDXL)
    if vae is not None:
        networks["vae"] = vae

    first = _ZERO if version == SD2 else _END
    paddings = {"text_encoder": first, "text_encoder_2": _ZERO}
    return StoredModel(
        path=header.path,
        networks=networks,
        tokenizers={name: paddings[name] for name in networks if name in paddings},
        index={"force_zeros_for_empty_prompt": version == SDXL},  # as all published folders of SDXL say
    )


def _unet(header: Header) -> StoredNetwork:
    prefix = next(prefix for prefix in UNET_PREFIXES if f"{prefix}input_blocks.0.0.weight" in header.tensors)
    own = _under(header, prefix)
    if not prefix:
        own = {name: tensor for name, tensor in own.items() if name.split(".")[0] in _UNET_TOP}
    unet = OriginalUNet(own)
    places = {name: Place(file=header.path, name=prefix + stored) for name, stored in unet.names.items()}
    return _network("unet", header, unet.config, places)


def _vae(header: Header, *, is_xl: bool) -> StoredNetwork | None:
    """The autoencoder in a file; None where there is none."""
    for prefix in _VAE_PREFIXES:
        own = _under(header, prefix)
        names = diffusers_vae_names(own)
        if _VAE_FIRST not in names:
            continue
        shapes = {name: own[stored].shape for name, stored in names.items()}
        scaling = _SCALING_XL if is_xl else _SCALING
        config = vae_config(shapes, scaling_factor=scaling, force_upcast=is_xl)
        places = {}
        for name, stored in names.items():
            is_convolution = ".attentions." in name and len(shapes[name]) == 4
            places[name] = Place(file=header.path, name=prefix + stored, flattened=is_convolution)
        return _network("vae", header, config, places)
    return None


def _text_encoders(header: Header, version: tuple[str, ...]) -> dict[str, StoredNetwork]:
    """The text encoders in a file, by the names of their folders."""
    encoders = []
    for prefix in _TRANSFORMERS:
        own = _under(header, prefix)
        if own:
            names = transformers_names(own)
            places = {name: Place(file=header.path, name=prefix + stored) for name, stored in names.items()}
            encoders.append((transformers_config(own), places))

    prefix = _OPEN_CLIP.get(version, "")
    own = _under(header, prefix) if prefix else {}
    if own:
        projected = version == SDXL
        config = open_clip_config(own, projected=projected)
        found = open_clip_places(own, layers=config["num_hidden_layers"], projected=projected)
        places = {
            name: Place(file=header.path, name=prefix + place.name, rows=place.rows, transposed=place.transposed)
            for name, place in found.items()
        }
        encoders.append((config, places))

    return {
        name: _network(name, header, config, places)
        for name, (config, places) in zip(TEXT_ENCODERS, encoders, strict=False)
    }


def _under(header: Header, prefix: str) -> dict[str, StoredTensor]:
    """The tensors whose names begin so, without that."""
    return {name.removeprefix(prefix): tensor for name, tensor in header.tensors.items() if name.startswith(prefix)}


def _network(name: str, header: Header, config: Mapping[str, Any], places: Mapping[str, Place]) -> StoredNetwork:
    return StoredNetwork(name=name, source=header.path, config=config, headers={header.path: header}, places=places)
