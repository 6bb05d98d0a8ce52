"""Names of the embeddings that OneTrainer bundles with a LoRA.

They are ``bundle_emb.WORD.clip_l``, for SDXL beside ``bundle_emb.WORD.clip_g``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["bundled_names"]

# Of Stable Diffusion 1 the name says nothing of the encoder.
_NAME = re.compile(r"bundle_emb\.(?P<word>.+)\.(?P<encoder>clip_l|clip_g|string_to_param\.\*)")


def bundled_names(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """The names among those of a file's tensors, by encoder (``clip_l``, ``clip_g``), by word."""
    names: dict[str, dict[str, str]] = {}
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        encoder = "clip_l" if match["encoder"].startswith("string") else match["encoder"]
        names.setdefault(match["word"], {})[encoder] = name
    return names
