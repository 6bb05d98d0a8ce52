"""Kinds of the tensors in a LoRA file, by the ends of their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from intarsia.counted import counted

__all__ = ["EMBEDDINGS", "LoraNames", "phrase", "sorted_names"]

_SHOWN = 2
_MATRIX = r"(\.lora_{0}|\.lora_{1}(\.\w+)?|\.lora\.{0}|\.lora_linear_layer\.{0}|(?<=_lora)\.{0})\.weight"

# Parts of a layer's change: what the end of a name looks like.
_PARTS = {
    "down": _MATRIX.format("down", "A"),
    "up": _MATRIX.format("up", "B"),
    "mid": r"\.lora_mid\.weight",
    "up_bias": r"\.lora_B(\.\w+)?\.bias",
    "alpha": r"\.alpha",
    "magnitude": r"\.dora_scale",
    "row_magnitude": r"\.lora_magnitude_vector(\.\w+)*",
    "hada_w1_a": r"\.hada_w1_a",
    "hada_w1_b": r"\.hada_w1_b",
    "hada_w2_a": r"\.hada_w2_a",
    "hada_w2_b": r"\.hada_w2_b",
    "hada_t1": r"\.hada_t1",
    "hada_t2": r"\.hada_t2",
    "lokr_w1": r"\.lokr_w1",
    "lokr_w1_a": r"\.lokr_w1_a",
    "lokr_w1_b": r"\.lokr_w1_b",
    "lokr_w2": r"\.lokr_w2",
    "lokr_w2_a": r"\.lokr_w2_a",
    "lokr_w2_b": r"\.lokr_w2_b",
    "lokr_t2": r"\.lokr_t2",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "w_norm": r"\.w_norm",
    "b_norm": r"\.b_norm",
}
_COMPILED = {part: re.compile(f"({pattern})$") for part, pattern in _PARTS.items()}

EMBEDDINGS = "embeddings that were trained with it"
"""Which are read beside the layers (:mod:`.lora_embeddings`)."""

# What else is in such files.
_OTHERS = {
    EMBEDDINGS: r"^bundle_emb\.",
    "constants": r"position_ids$",
    "OFT": r"\.b?oft_\w+(\.\w+)?$",
    "GLoRA": r"\.[ab][12m]\.weight$",
    "IA3": r"\.on_input$",
    "LoRA of embeddings": r"\.lora_embedding_[AB]$",
    "weights that replace the model's": r"\.set_(weight|bias)$",
    "sparse biases": r"\.bias_(indices|values|size)$",
}
_UNKNOWN = "tensors of no known kind"


@dataclass(frozen=True)
class LoraNames:
    """The names of one file, sorted.

    Attributes:
        layers: ``layers["lora_unet_conv_in"]["down"]`` is the name of a tensor.
        others: names that change no layer in a form that is known, by what they are.
    """

    layers: Mapping[str, Mapping[str, str]]
    others: Mapping[str, tuple[str, ...]]


def sorted_names(names: Iterable[str]) -> LoraNames:
    """Sort the names of a file's tensors."""
    layers: dict[str, dict[str, str]] = {}
    others: dict[str, tuple[str, ...]] = {}
    for name in names:
        other = _other(name)
        part, layer = _part(name)
        if other or not part:
            kind = other or _UNKNOWN
            others[kind] = (*others.get(kind, ()), name)
        else:
            layers.setdefault(layer, {})[part] = name
    return LoraNames(layers, others)


def phrase(kind: str, names: tuple[str, ...]) -> str:
    """A kind with the number and the first names of its tensors, for a sentence."""
    listed = ", ".join(names[:_SHOWN])
    more = ", …" if len(names) > _SHOWN else ""
    return f"{kind} ({counted(len(names), 'tensor')}: {listed}{more})"


def _part(name: str) -> tuple[str, str]:
    """Which part of a change it is, and the layer as the file names it; ("", "") for anything else."""
    for part, pattern in _COMPILED.items():
        match = pattern.search(name)
        if match:
            return part, name[: match.start()]
    return "", ""


def _other(name: str) -> str:
    for kind, pattern in _OTHERS.items():
        if re.search(pattern, name):
            return kind
    return ""
