"""Token merging: similar tokens go through self-attention as one (Bolya et al. 2023, "Token Merging: Your ViT But
Faster"; Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion").

The mathematics are those of the package tomesd: every 2x2 cell of a feature map has one destination, the other
tokens are sources, each source belongs to the destination of the highest cosine similarity, the ``merged`` most
similar sources are averaged into theirs, and every token gets back what became of it. Two things are added:

- *weighted*: a merged key counts as many times as the tokens that it stands for (proportional attention, Bolya et
  al. 2023, section 3);
- *mask-aware*: tokens inside and near the mask are left as they are, neither sources nor destinations, because only
  they reach the picture; the ratio is of the others.

Shapes depend on settings, size and mask only (:class:`Region`), never on the tokens. What each lane draws depends on
its own starting noise, so that its picture does not depend on its company.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.errors import RequestError
from intarsia.kernels.matcher import match, merge

__all__ = ["LevelMerging", "Matcher", "Matching", "Merging", "Region", "draw_choices", "find_regions", "level_mergings"]

MAX_RATIO = 0.75
"""All sources of a feature map of whole cells."""

BUCKETS = 16
"""Masks differ, shapes should not: merged tokens are counted in steps of this part of the level."""

NEAR = 1
"""Tokens around the mask that are protected with it."""


@dataclass(frozen=True)
class Merging:
    """How tokens are merged.

    Attributes:
        ratio: share of merged tokens, 0 … 0.75; of the unprotected ones where ``mask_aware``. 0 merges nothing.
        levels: resolutions that merge, from the highest that has attention downwards.
        reuse: how many attention blocks of a level share one matching; 1 matches anew in each, as tomesd does.
        weighted, mask_aware: see the module; both off is tomesd.

    Raises:
        RequestError: a value out of range.
    """

    ratio: float = 0.0
    levels: int = 1
    reuse: int = 1
    weighted: bool = True
    mask_aware: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= MAX_RATIO:
            raise RequestError("token_merging", self.ratio, f"between 0 and {MAX_RATIO}")
        for name in ("levels", "reuse"):
            if getattr(self, name) < 1:
                raise RequestError(f"token_merging_{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True, eq=False)
class Region:
    """What one mask lets merge at one resolution.

    Attributes:
        height, width: of the feature map, in tokens.
        merged: tokens that disappear.
        protected: bool [H*W], True is left as it is; None protects nothing.
        merging: the settings that it follows from.
    """

    height: int
    width: int
    merged: int
    protected: Tensor | None
    merging: Merging

    @property
    def cells(self) -> int:
        return (self.height // 2) * (self.width // 2)

    def to(self, device: torch.device) -> Region:
        return replace(self, protected=None if self.protected is None else self.protected.to(device))


def find_regions(merging: Merging, sizes: Sequence[tuple[int, int]], mask: Tensor) -> tuple[Region, ...]:
    """The resolutions at which something is merged; none where the mask leaves too little.

    Args:
        sizes: heights and widths of the feature maps with attention, highest resolution first.
        mask: [h, w] of 0 and 1 at the latents' resolution, 1 is repainted.
    """
    found = (_region(merging, height, width, mask) for height, width in sizes[: merging.levels])
    return tuple(region for region in found if region.merged)


def _region(merging: Merging, height: int, width: int, mask: Tensor) -> Region:
    cells = (height // 2) * (width // 2)
    if not merging.mask_aware:
        count = height * width
        return Region(height, width, min(int(count * merging.ratio), count - cells), None, merging)
    protected = _protected(mask, height, width)
    whole = protected[: height // 2 * 2, : width // 2 * 2]
    free = int((~protected).sum())
    step = max(1, height * width // BUCKETS)
    # cells are protected as a whole, so three quarters or more of the free tokens are sources
    merged = int(free * merging.ratio) // step * step if not whole.all() else 0
    return Region(height, width, merged, protected.flatten(), merging)


def _protected(mask: Tensor, height: int, width: int) -> Tensor:
    """bool [height, width]: tokens of every cell that the mask, or a token near it, reaches."""
    inside = F.adaptive_max_pool2d(mask[None].float(), (height, width))
    near = F.max_pool2d(inside, 2 * NEAR + 1, stride=1, padding=NEAR)[0] > 0.5
    rows, columns = height // 2, width // 2
    if rows and columns:
        cells = F.max_pool2d(near[None].float(), 2)[0] > 0.5
        near[: 2 * rows, : 2 * columns] = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return near


def draw_choices(noise: np.ndarray, rows: int, regions: Sequence[Region]) -> tuple[Tensor, ...]:
    """Destinations of a lane: for each region uint8 [rows, cells], the token of the cell (row by row, 0 … 3).

    Args:
        noise: the lane's starting noise. It stands for the lane's seed: its hash keys a generator of its own, so
            that what is drawn here takes nothing from the noise of the rows.
        rows: evaluations; every one has its own destinations, so that no token is a destination in all of them.
    """
    key = int.from_bytes(hashlib.sha256(np.ascontiguousarray(noise).tobytes()).digest()[:16], "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    return tuple(torch.from_numpy(generator.integers(0, 4, (rows, r.cells), np.uint8)) for r in regions)


@dataclass(frozen=True, eq=False)
class LevelMerging:
    """Merging of one evaluation at one resolution; what :class:`intarsia.models.unet.UNet` takes.

    Attributes:
        choice: integer [L, cells], each cell's destination (0 … 3, row by row). L divides the batch: samples
            ``i * B / L …`` (the guided halves of a lane) share one matching, by the mean of their similarities. Before
            the first cross-attention the batch may be L itself: there halves are equal, and so is their mean.
            What is then left of a merging error in both halves is the same, and guidance does not enlarge it.
        protected: bool [L, H*W], at least one unprotected cell and ``merged`` unprotected sources; None for none.
    """

    height: int
    width: int
    merged: int
    choice: Tensor
    protected: Tensor | None = None
    weighted: bool = True
    reuse: int = 1


def level_mergings(
    regions: Sequence[Sequence[Region]], choices: Sequence[Sequence[Tensor]]
) -> tuple[LevelMerging, ...]:
    """Lanes side by side, for one evaluation.

    Args:
        regions: of each lane; ``merged`` must be equal.
        choices: of each lane, for each region [cells].
    """
    made = []
    for level, first in enumerate(regions[0]):
        protected = [each[level].protected for each in regions]
        made.append(
            LevelMerging(
                first.height,
                first.width,
                first.merged,
                torch.stack([each[level] for each in choices]),
                None if first.protected is None else torch.stack([p for p in protected if p is not None]),
                first.merging.weighted,
                first.merging.reuse,
            )
        )
    return tuple(made)


@dataclass(frozen=True, eq=False)
class Matching:
    """Which tokens are one, in each of L lanes.

    Attributes:
        place: integer [L, N], where each token stands, alone or merged, among those that are left.
        size: float32 [L, N - merged], how many tokens each of those stands for.
        sources, destinations: integer [L, N - cells] and [L, cells].
        weighted: whether attention counts them as many.
        fused: as in :mod:`intarsia.models.layers`.
    """

    place: Tensor
    size: Tensor
    sources: Tensor
    destinations: Tensor
    weighted: bool
    fused: bool | None = None

    @property
    def log_size(self) -> Tensor | None:
        """What is added to the attention logits of each key, [L, N - merged]; None without weights."""
        return self.size.log() if self.weighted else None

    def merge(self, x: Tensor) -> Tensor:
        """[B, N, C] → [B, N - merged, C], means."""
        return merge(x, self.place, self.size, self.sources, self.destinations, fused=self.fused)

    def unmerge(self, x: Tensor) -> Tensor:
        """[B, N - merged, C] → [B, N, C], copies."""
        place = self.place.repeat_interleave(len(x) // len(self.place), 0)
        return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))


class Matcher:
    """Matchings of one level during one evaluation; ``fused`` as in :mod:`intarsia.models.layers`."""

    def __init__(self, level: LevelMerging, fused: bool | None = None) -> None:
        self.level, self._fused = level, fused
        self._sources, self._destinations = _split(level.choice, level.height, level.width)
        self._blocks = 0
        self._last: Matching | None = None

    def match(self, x: Tensor) -> Matching:
        """The matching of the next block, whose tokens before the norm are ``x`` [B, N, C]."""
        if self._last is None or self._blocks % self.level.reuse == 0:
            self._last = self._match(x)
        self._blocks += 1
        return self._last

    def _match(self, x: Tensor) -> Matching:
        level, tokens = self.level, (self._sources, self._destinations)
        place, size = match(x, *tokens, level.merged, level.protected, fused=self._fused)
        return Matching(place, size, *tokens, level.weighted, self._fused)


def _split(choice: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Indices of sources [L, N - cells] and destinations [L, cells]; what no whole cell holds is a source."""
    rows, columns = height // 2, width // 2
    grid = torch.arange(height * width, device=choice.device).view(height, width)
    corner = grid[: 2 * rows : 2, : 2 * columns : 2].flatten()
    turn = (choice.long()[..., None] + torch.arange(4, device=choice.device)) % 4
    cells = corner[:, None] + turn // 2 * width + turn % 2
    edge = torch.cat([grid[: 2 * rows, 2 * columns :].flatten(), grid[2 * rows :].flatten()])
    return torch.cat([cells[..., 1:].flatten(1), edge.expand(len(choice), -1)], dim=1), cells[..., 0].contiguous()
