"""Settings of token merging: similar tokens go through self-attention as one (Bolya & Hoffman 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intarsia.errors import RequestError

__all__ = ["MAX_RATIO", "NO_MERGING", "TokenMerging"]

MAX_RATIO = 0.75
"""All sources of a feature map of whole cells."""


@dataclass(frozen=True)
class TokenMerging:
    """How many tokens merge, and where.

    Attributes:
        ratio: share of the tokens outside the mask that merge, 0 … 0.75; 0 merges nothing.
        levels: resolutions that merge, from the highest that has attention downwards.
        reuse: attention blocks of a resolution that share one matching; 1 matches anew in each, as tomesd does.

    Raises:
        RequestError: a value out of range.
    """

    ratio: float = 0.0
    levels: int = 1
    reuse: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= MAX_RATIO:
            raise RequestError("token_merging", self.ratio, f"between 0 and {MAX_RATIO}")
        for name in ("levels", "reuse"):
            value = getattr(self, name)
            if value < 1:
                raise RequestError(f"token_merging_{name}", value, "at least 1")

    def to_dict(self) -> dict[str, Any]:
        """The three keys that plans and registries have for it."""
        return {
            "token_merging": self.ratio,
            "token_merging_levels": self.levels,
            "token_merging_reuse": self.reuse,
        }


NO_MERGING = TokenMerging()
