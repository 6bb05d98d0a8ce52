"""What is used with a model, in one file: VAEs, textual-inversion embeddings and IP adapters."""

from __future__ import annotations

import re

from intarsia.checkpoints.header import Header
from intarsia.checkpoints.identified import SD1, SD2, SDXL, Identified, main_dtype, version_of

__all__ = ["find_embedding", "find_ip_adapter", "find_vae", "vae_families"]

# Widths of the tables of tokens, by the text encoders.
_EMBEDDING_WIDTHS: dict[int, tuple[str, ...]] = {768: SD1, 1024: SD2}
_LATENT_CHANNELS = 4
# Cross-attentions of the UNets of SD1 and SD2; SDXL has 70.
_ATTENTIONS = 16


def find_vae(header: Header) -> Identified | None:
    """An autoencoder: of the original code, of diffusers, or one side of TAESD's."""
    names = {name.removeprefix("first_stage_model.") for name in header.tensors}
    if "decoder.conv_in.weight" not in names:
        return _half_of_taesd(header)

    latents = _input_channels(header, "decoder.conv_in.weight")
    refused = ""
    if latents != _LATENT_CHANNELS:
        refused = f"its latents have {latents} channels, not {_LATENT_CHANNELS}: it is of Flux, SD3 or another family"
    elif "encoder.conv_in.weight" not in names:
        refused = "it has no encoder"
    return Identified(
        path=header.path,
        kind="vae",
        what="a VAE",
        families=version_of(header.metadata) or vae_families(header.path.stem),
        dtype=main_dtype(header.tensors.values()),
        components=("vae",),
        size=header.size,
        refused=refused,
        title=header.metadata.get("modelspec.title", ""),
    )


def vae_families(name: str) -> tuple[str, ...]:
    """Families by the name of a VAE's file, as nothing in it differs between them; empty where it says nothing."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if any(word.startswith(("sdxl", "xl", "pony", "illustrious", "taesdxl")) for word in words):
        return SDXL
    if any(word in ("mse", "ema", "kl", "f8", "sd15", "anything", "orangemix", "taesd") for word in words):
        return (*SD1, *SD2)
    return ()


def _input_channels(header: Header, name: str) -> int:
    for prefix in ("", "first_stage_model."):
        tensor = header.tensors.get(prefix + name)
        if tensor is not None and len(tensor.shape) == 4:
            return tensor.shape[1]
    return 0


def _half_of_taesd(header: Header) -> Identified | None:
    """TAESD is published as two files, each a chain of layers that have only numbers."""
    is_chain = all(re.fullmatch(r"\d+\.(conv\.\d\.)?(skip\.)?(weight|bias)", name) for name in header.tensors)
    if not is_chain or not {"1.weight", "0.weight"} & set(header.tensors):
        return None
    side = "encoder" if "0.weight" in header.tensors else "decoder"
    return Identified(
        path=header.path,
        kind="vae",
        what=f"the {side} of a TAESD",
        families=vae_families(header.path.stem),
        dtype=main_dtype(header.tensors.values()),
        size=header.size,
        refused="it is half of an autoencoder; add the folder that diffusers has of it (AutoencoderTiny)",
    )


def find_embedding(header: Header) -> Identified | None:
    """A textual-inversion embedding: ``emb_params`` (A1111), ``<token>`` (diffusers), or two tensors for SDXL."""
    vectors = header.tensors
    names = set(vectors)
    is_one = len(names) == 1 and all(name == "emb_params" or re.fullmatch(r"<[^<>]+>", name) for name in names)
    is_pair = names == {"clip_l", "clip_g"}
    if not is_one and not is_pair:
        return None

    families: tuple[str, ...] = SDXL
    if is_one:
        shape = next(iter(vectors.values())).shape
        width = shape[-1] if shape else 0
        families = _EMBEDDING_WIDTHS.get(width, ())
    flat = all(1 <= len(tensor.shape) <= 2 for tensor in vectors.values())
    return Identified(
        path=header.path,
        kind="embedding",
        what="a textual-inversion embedding",
        families=families or version_of(header.metadata),
        dtype=main_dtype(vectors.values()),
        size=header.size,
        refused="" if flat else "its vectors are not the rows of a matrix",
        title=header.metadata.get("modelspec.title", ""),
    )


def find_ip_adapter(header: Header) -> Identified | None:
    """An IP adapter as published, with a projection and keys and values for each cross-attention."""
    names = header.tensors
    keys = [name for name in names if re.fullmatch(r"ip_adapter\.\d+\.to_k_ip\.weight", name)]
    if not keys or not any(name.startswith("image_proj.") for name in names):
        return None

    families = SDXL if len(keys) > _ATTENTIONS else SD1
    refused = ""
    if any("_lora." in name for name in names):
        refused = "it is a FaceID adapter, which needs a face recognizer"
    elif "image_proj.proj.0.weight" in names:
        refused = "it is a full-face adapter, which is not supported"
    return Identified(
        path=header.path,
        kind="ip_adapter",
        what="an IP adapter",
        families=families,
        dtype=main_dtype(header.tensors.values()),
        size=header.size,
        refused=refused,
    )
