"""``RequestFields``: the keyword arguments of a request with their types, for editors and type checkers.

What each means, and which values of its type are allowed, is said by :class:`intarsia.InpaintRequest`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from intarsia.canvas.options import MaskedContent, MaskSource
    from intarsia.engine.plan import SafetyAction
    from intarsia.engine.request import Extend, IpAdapter, Lora
    from intarsia.schedulers import Table
    from intarsia.weighted_text import PromptSyntax

__all__ = ["RequestFields", "RequestOptions"]

Name = str | os.PathLike[str]


class RequestOptions(TypedDict, total=False):
    """Every field of a request but the image, the mask and the prompt; none has to be given."""

    negative_prompt: str
    prompt_syntax: PromptSyntax | None
    model: Name | None
    width: int | None
    height: int | None
    fit_output: bool
    samples: int
    steps: int | None
    guidance_scale: float
    strength: float
    scheduler: str | None
    karras_sigmas: bool | None
    algorithm_type: str | None
    spacing: str | None
    eta: float | None
    solver_order: int | None
    solver_type: str | None
    final_sigmas_type: str | None
    table: Table | Mapping[str, Any] | None
    clip_skip: int | None
    embeddings: Sequence[Name]
    seed: int | str | None
    loras: Sequence[Lora | Name | Mapping[str, Any]]
    vae: Name | None
    ip_adapter: IpAdapter | Mapping[str, Any] | None
    token_merging: bool | float | None
    safety_checker: bool
    safety_action: SafetyAction
    enhance_prompt: bool
    mask_blur: float
    mask_fill_holes: bool
    mask_min_area: int | str
    mask_dilate: int
    mask_padding: Literal["auto", "whole"] | int | None
    mask_source: MaskSource
    invert_mask: bool
    soft_mask: bool
    masked_content: MaskedContent
    color_match: bool
    extend: Extend | Mapping[str, int] | str | None


class RequestFields(RequestOptions, total=False):
    """Every field of a request."""

    prompt: str
    init_image: Any
    mask_image: Any
