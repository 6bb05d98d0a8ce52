"""Token merging: similar tokens go through self-attention as one (Bolya et al. 2023, "Token Merging: Your ViT But
Faster"; Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion").

The mathematics are those of the package tomesd: every 2x2 cell of a feature map has one destination, the other
tokens are sources, each source belongs to the destination of the highest cosine similarity, the ``merged`` most
similar sources are averaged into theirs, and every token gets back what became of it. Two things are added:

- *weighted*: a merged key counts as many times as the tokens that it stands for (proportional attention, Bolya et
  al. 2023, section 3);
- *mask-aware*: tokens inside and near the mask are left as they are, neither sources nor destinations, because only
  they reach the image; the ratio is of the others.

Which tokens may merge, and how many, is counted on the host (:mod:`intarsia.backends.token_regions`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia.kernels.matcher import match, merge

__all__ = ["LevelMerging", "Matcher", "Matching"]


@dataclass(frozen=True, eq=False, kw_only=True)
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
