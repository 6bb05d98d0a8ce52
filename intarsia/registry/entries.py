"""Entries of the registry, as declared: a model, or a part of one, and the files that are pinned for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from intarsia.checkpoints.identified import Prediction
from intarsia.execution import STANDARD, Precision
from intarsia.registry.families import FAMILIES, Family
from intarsia.token_merging import TokenMerging
from intarsia.weighted_text import PromptSyntax

__all__ = ["DEFAULT_MERGING", "PARTS", "Entry", "Format", "ModelEntry", "PartEntry", "PinnedFile", "normalize"]

PARTS = {
    "vaes": "VAE",
    "loras": "LoRA",
    "embeddings": "embedding",
    "ip_adapters": "IP adapter",
    "safety": "safety checker",
}
"""Sections of a registry file besides ``models``, and what an error calls one of their entries."""

Format = Literal["diffusers", "single"]
"""A model's folder as diffusers saves it, or one file with all of it."""

DEFAULT_MERGING = TokenMerging(ratio=0.5)
"""Of a model whose entry has no keys for it."""


@dataclass(frozen=True)
class PinnedFile:
    """One file of an entry: its path relative to the entry's folder, and what it must contain."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of the registry, as declared; nothing on disk has been looked at.

    Attributes:
        path: folder (format ``diffusers``), or one checkpoint in a safetensors file (``single``).
        prediction: what the UNet predicts, where the files do not say it or are wrong; "" leaves it to them.
        vae: id of the VAE that is used unless a request names one; "" for the model's own.
        text: id of the model whose text encoders it has, for a file that lacks them; "" for its own.
        tokenizer: folder of a tokenizer in place of CLIP's; None for the model's own, or CLIP's for a checkpoint.
        defaults: scheduler, steps and clip_skip where the caller gives none; and by documented endpoint, in a table of
            its name, any of its documented fields.
        prompt_syntax: how prompts are read where a request does not say it; "" reads weights, but none in documented
            requests.
        prompt_template: what ``enhance_prompt`` makes of ``{prompt}``.
        token_merging: what ``token_merging=True`` means; three keys in the file.
        precision: what its networks compute in: "standard", or "fp8" on a GPU that has it.
        safety: id of the model's safety checker; "" where it has none.
        stands_in_for: ids that this model answers to as long as no entry has them; results say so.
    """

    id: str
    family: str
    path: Path
    format: Format = "diffusers"
    prediction: Prediction = ""
    vae: str = ""
    text: str = ""
    tokenizer: Path | None = None
    files: tuple[PinnedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    size: int = 512
    prompt_syntax: Literal["", PromptSyntax] = ""
    prompt_template: str = "{prompt}"
    token_merging: TokenMerging = DEFAULT_MERGING
    precision: Precision = STANDARD
    safety: str = ""
    stands_in_for: tuple[str, ...] = ()
    licence: str = "unknown"
    source: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    declared_in: str = ""

    @property
    def shape(self) -> Family:
        """Channels, native size and schedule of the model's family."""
        return FAMILIES[self.family]


@dataclass(frozen=True, kw_only=True)
class PartEntry:
    """A VAE, LoRA, embedding, IP adapter or safety checker of the registry, as declared.

    Attributes:
        kind: the section that it is in, a key of :data:`PARTS`.
        path: folder, or one safetensors file.
        families: model families that it fits; empty fits all.
        image_encoder: of an IP adapter: the folder of its image encoder, or another adapter that has it; None for
            the one that lies in its folder, or beside its file.
    """

    kind: str
    id: str
    path: Path
    families: tuple[str, ...] = ()
    image_encoder: Path | None = None
    files: tuple[PinnedFile, ...] = ()
    aliases: tuple[str, ...] = ()
    licence: str = "unknown"
    source: str = ""
    declared_in: str = ""


Entry = ModelEntry | PartEntry


def normalize(name: str) -> str:
    """The form in which ids are compared."""
    lower = name.strip().lower()
    return lower.replace("_", "-")
