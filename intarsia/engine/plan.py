"""``Plan``: what will be done, as frozen data. Equal plans give equal images.

A plan holds numbers, strings, tuples and hashes: no tensors, no callables, and no ``None`` that means
"the default". It says which model (by hash), which part of which image (by hash), which solver table
(by name and options), and every seed. :meth:`Plan.to_dict` is its JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from intarsia.canvas.boxes import Geometry
from intarsia.canvas.options import Extension, MaskedContent, MaskSource
from intarsia.execution import STANDARD, Precision
from intarsia.token_merging import NO_MERGING, TokenMerging
from intarsia.weighted_text import PromptSyntax

__all__ = [
    "PLAN_VERSION",
    "Adapter",
    "CanvasPlan",
    "ModelPlan",
    "Plan",
    "PromptPlan",
    "SafetyAction",
    "SamplerPlan",
]

SafetyAction = Literal["sensitive_content_text", "blur", "pixelate", "black"]
"""What is put in the place of an image that the safety checker flags."""

# Raised whenever an equal plan would give another image.
PLAN_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class CanvasPlan:
    """Which pixels, and how they are read and put back.

    Attributes:
        image_sha256, mask_sha256: of the normalized images, however they arrived.
        mask_min_area: in pixels.
        extend: how the image is enlarged; then ``mask_sha256`` may be "", without a mask.
        mask_padding: -1 generates the whole image; "auto" stands where it chose the mask's surroundings.
        The others are the request's, resolved.
    """

    geometry: Geometry
    image_sha256: str
    mask_sha256: str
    mask_source: MaskSource
    invert_mask: bool
    mask_dilate: int
    mask_blur: float
    mask_padding: Literal["auto"] | int
    masked_content: MaskedContent
    color_match: bool
    mask_fill_holes: bool = False
    mask_min_area: int = 0
    extend: Extension | None = None
    soft_mask: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values. What is at its default here is left out: plans from before there was it keep their hashes."""
        values = dataclasses.asdict(self)
        later = [field for field in dataclasses.fields(self) if field.default is not dataclasses.MISSING]
        for field in later:
            if values[field.name] == field.default:
                del values[field.name]
        return values


@dataclass(frozen=True)
class Adapter:
    """One adapter: registry id, content hash, strength."""

    id: str
    sha256: str
    strength: float


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """The resolved registry entry and what is put into it; what a backend opens.

    Attributes:
        vae: its own ("model") or ``id:sha256`` of another.
        adapters: LoRAs in the order in which they are added.
        ip_adapter: ``id:sha256``, "none" without one; its image and scale are the prompt's.
        precision: "standard", or "fp8".
    """

    id: str
    family: str
    sha256: str
    in_channels: int
    latent_channels: int
    factor: int
    vae: str = "model"
    adapters: tuple[Adapter, ...] = ()
    ip_adapter: str = "none"
    precision: Precision = STANDARD

    def to_dict(self) -> dict[str, Any]:
        """Plain values. A standard precision is left out: plans from before there was another keep their hashes."""
        values = dataclasses.asdict(self)
        if self.precision == STANDARD:
            del values["precision"]
        return values


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """What is encoded: texts, and the image of an IP adapter.

    Attributes:
        asked: the caller's prompt before any template.
        image_sha256: of the IP adapter's normalized image; "" without one.
        image_scale: weight of that image's attention, 0 … 1.
        syntax: how both prompts are read.
        embeddings: ``id:sha256`` of each that a word in the prompts stands for.
    """

    prompt: str
    negative_prompt: str
    asked: str
    clip_skip: int
    image_sha256: str = ""
    image_scale: float = 0.0
    syntax: PromptSyntax = "plain"
    embeddings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values. Plain syntax and absent embeddings are left out: plans from before these keep their hashes."""
        values = dataclasses.asdict(self)
        if self.syntax == "plain":
            del values["syntax"]
        if not self.embeddings:
            del values["embeddings"]
        return values


@dataclass(frozen=True, kw_only=True)
class SamplerPlan:
    """The solver table's name and options, and what follows from them.

    Attributes:
        karras: as asked; ``karras_applied`` says whether it means anything for this scheduler.
        schedule: the model's noise schedule, sorted (name, value) pairs.
        settings: of the solver and its spacing, as the caller chose them, likewise.
        table_sha256: hash of a table of the caller's own, of which ``scheduler`` is only the name; "" without one.
        evaluations: network evaluations for one image (rows of the table); 0 returns the input.
        notes: remarks of the table, for the result's warnings.
    """

    scheduler: str
    steps: int
    strength: float
    karras: bool
    karras_applied: bool
    algorithm_type: str
    schedule: tuple[tuple[str, Any], ...]
    evaluations: int
    notes: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    table_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values. No settings and no own table are left out: plans from before these keep their hashes."""
        values = dataclasses.asdict(self)
        for name in ("settings", "table_sha256"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that determines the images of one request.

    Attributes:
        seeds: one for each image.
        token_merging: how many tokens merge, and where. In JSON three keys, as in the registry.
        safety: id of the checker, "off" without one; ``safety_action`` is what a finding does.
        safety_sha256: hash of the checker's files, "" without one.
    """

    model: ModelPlan
    canvas: CanvasPlan
    prompt: PromptPlan
    sampler: SamplerPlan
    guidance_scale: float
    seeds: tuple[int, ...]
    token_merging: TokenMerging = NO_MERGING
    safety: str = "off"
    safety_action: SafetyAction = "sensitive_content_text"
    safety_sha256: str = ""
    version: int = PLAN_VERSION

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one image's latents."""
        geometry, model = self.canvas.geometry, self.model
        return (model.latent_channels, geometry.height // model.factor, geometry.width // model.factor)

    @property
    def group(self) -> tuple[Any, ...]:
        """What must be equal for the images of two plans to share a network evaluation."""
        guided = self.guidance_scale > 1
        return (self.model, self.latent_shape, guided, self.token_merging)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON: equal plans, equal hashes."""
        text = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        values: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            values |= self.token_merging.to_dict() if name == "token_merging" else {name: value}
        parts = {name: getattr(self, name).to_dict() for name in ("model", "canvas", "prompt", "sampler")}
        return values | parts

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)
