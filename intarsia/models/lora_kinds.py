"""Kinds of the tensors in a LoRA file, by their names alone: pairs of matrices, alphas, and all others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["MATRIX", "LoraNames", "partner", "phrase", "sorted_names"]

MATRIX = re.compile(r"(\.lora_|[._]lora\.|\.lora_linear_layer\.)(down|up|A|B)\.weight$")
_ALPHA = ".alpha"
_OTHER = {"down": "up", "up": "down", "A": "B", "B": "A"}
_SHOWN = 2

# Networks that a LoRA is applied to, as kohya's scripts and as diffusers name them; and the UNet's own layers.
_OURS = re.compile(
    r"lora_(unet|te|te1|te2)_|(unet|text_encoder|text_encoder_2)\.|"
    r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding|proj_in|proj_out)\b"
)
# Ways to change a layer other than by a pair of matrices: without them the layer would be wrong.
_FORMS = {
    "LoHa": r"\.hada_\w+$",
    "LoKr": r"\.lokr_\w+$",
    "Tucker's middle matrices": r"\.lora_mid\.weight$",
    "DoRA": r"\.(dora_scale|lora_magnitude_vector(\.\w+)*)$",
    "OFT": r"\.b?oft_\w+(\.\w+)?$",
    "GLoRA": r"\.[ab][12m]\.weight$",
    "LoRA of embeddings": r"\.lora_embedding_[AB]$",
}
# What may stand beside matrices, and what other files hold.
_BESIDE = {
    "embeddings that were trained with it": r"^bundle_emb\.",
    "a textual-inversion embedding": r"^(emb_params|string_to_\w+|clip_[lg]|t5xxl)\b|^<.*>$",
    "an IP adapter": r"^(image_proj|ip_adapter)\.",
    "a ControlNet": r"^(control_model|controlnet_\w+|lllite_\w+|input_hint_block)\b",
    "a checkpoint": r"^(model|first_stage_model|cond_stage_model|conditioner|model_ema)\.|^denoiser\.",
    "layers of a transformer (Flux, SD3 and others)": (
        r"^(transformer|text_encoder_3|double_blocks|single_blocks|diffusion_model)\.|^lora_(transformer|te3)_"
        r"|^lora_unet_(double|single|joint)_blocks"
    ),
    "layers in PEFT's own names": r"^base_model\.model\.",
    "an autoencoder": r"^(encoder|decoder|quant_conv|post_quant_conv)\.",
    "whole weights (diff)": r"\.(diff|set_weight)$",
    "biases": r"\.(diff_b|set_bias|lora_[AB]\.bias)$",
    "norms": r"\.[wb]_norm$",
    "constants": r"position_ids$",
    "a network's own weights": r"\.(weight|bias)$",
}
_UNPAIRED = "matrices without the other of their pair"
_ALPHAS = "alphas without matrices"
_OTHER_NETWORKS = "layers of networks that are neither UNet nor text encoders"
_UNKNOWN = "tensors of no known kind"


@dataclass(frozen=True)
class LoraNames:
    """The names of one file, sorted.

    Attributes:
        matrices: of complete pairs, for networks that LoRAs are applied to.
        alphas: of these pairs.
        left_out: all others, by their kind.
    """

    matrices: frozenset[str]
    alphas: frozenset[str]
    left_out: Mapping[str, tuple[str, ...]]


def sorted_names(names: Iterable[str]) -> LoraNames:
    """Sort the names of a file's tensors. A layer that is changed in another way too is left out as a whole."""
    kinds = {name: _kind(name) for name in names}
    other_forms = {_stem(name): kind for name, kind in kinds.items() if kind in _FORMS}
    for name, kind in kinds.items():
        if not kind:
            kinds[name] = other_forms.get(_stem(name), "")

    candidates = [name for name, kind in kinds.items() if not kind]
    matrices = {name for name in candidates if MATRIX.search(name)}
    paired = {name for name in matrices if partner(name) in matrices}
    paired_stems = {_stem(name) for name in paired}
    alphas = set()
    for name in candidates:
        if name in paired:
            continue
        if name in matrices:
            kinds[name] = _UNPAIRED
        elif name.endswith(_ALPHA) and _stem(name) not in paired_stems:
            kinds[name] = _ALPHAS
        else:
            alphas.add(name)

    left_out: dict[str, tuple[str, ...]] = {}
    for name, kind in kinds.items():
        if kind:
            left_out[kind] = (*left_out.get(kind, ()), name)
    return LoraNames(frozenset(paired), frozenset(alphas), left_out)


def partner(name: str) -> str:
    """The name of the other matrix of a pair."""
    return MATRIX.sub(lambda match: f"{match[1]}{_OTHER[match[2]]}.weight", name)


def phrase(kind: str, names: tuple[str, ...]) -> str:
    """A kind with the number and the first names of its tensors, for a sentence."""
    tensors = "tensor" if len(names) == 1 else "tensors"
    listed = ", ".join(names[:_SHOWN])
    more = ", …" if len(names) > _SHOWN else ""
    return f"{kind} ({len(names)} {tensors}: {listed}{more})"


def _kind(name: str) -> str:
    """The kind of a tensor; "" for a matrix, or an alpha, of a network that LoRAs are applied to."""
    for kind, pattern in _FORMS.items():
        if re.search(pattern, name):
            return kind

    # prefixes say more than the ends of names
    for kind, pattern in _BESIDE.items():
        if pattern.startswith("^") and re.search(pattern, name):
            return kind

    is_lora = MATRIX.search(name) or name.endswith(_ALPHA)
    if is_lora:
        return "" if _OURS.match(name) else _OTHER_NETWORKS

    for kind, pattern in _BESIDE.items():
        if re.search(pattern, name):
            return kind
    return _UNKNOWN


def _stem(name: str) -> str:
    """The layer as the file names it."""
    for pattern in (MATRIX.pattern, *_FORMS.values()):
        match = re.search(pattern, name)
        if match:
            return name[: match.start()]
    return name.removesuffix(_ALPHA)
