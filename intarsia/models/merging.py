"""Token merging: similar tokens go through self-attention as one.

Bolya et al. 2023, "Token Merging: Your ViT But Faster"; Bolya & Hoffman 2023, "Token Merging for Fast Stable
Diffusion".

The mathematics are those of the package tomesd: every 2x2 cell of a feature map has one destination, the other
tokens are sources, each source belongs to the destination of the highest cosine similarity, the ``merged`` most
similar sources are averaged into theirs, and every token gets back the result of the one that it merged into. Two
things are added:

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
    """Token merging of one evaluation at one resolution, as :class:`intarsia.models.unet.UNet` takes it.

    Attributes:
        height, width: of the feature map, in tokens.
        merged: tokens that disappear.
        choice: integer ``[L, cells]``, each cell's destination (0 … 3, row by row). L divides the batch: samples
            ``i * B / L …`` (a lane's branches of guidance) share one matching, by the mean of their similarities.
            Before the first cross-attention the batch may be L itself: there branches are equal, and so is their mean.
            The error of merging is then the same in both branches, and guidance does not enlarge it.
        protected: bool ``[L, H*W]``, at least one unprotected cell and ``merged`` unprotected sources; None protects
            nothing.
        weighted: see the module.
        reuse: attention blocks that share one matching.
    """

    height: int
    width: int
    merged: int
    choice: Tensor
    protected: Tensor | None = None
    weighted: bool = True
    reuse: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Matching:
    """The tokens that merge, in each of L lanes.

    Attributes:
        place: integer ``[L, N]``, the index of each token, alone or merged, among those that are left.
        size: float32 ``[L, N - merged]``, how many tokens each of those stands for.
        sources, destinations: integer ``[L, N - cells]`` and ``[L, cells]``.
        weighted: whether attention counts a merged token as many.
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
        """``[L, N - merged]``, added to the attention logits of each key; None without weights."""
        if not self.weighted:
            return None
        return self.size.log()

    def merge(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` → ``[B, N - merged, C]``, means."""
        return merge(x, self.place, self.size, self.sources, self.destinations, fused=self.fused)

    def unmerge(self, x: Tensor) -> Tensor:
        """``[B, N - merged, C]`` → ``[B, N, C]``, copies."""
        samples_per_lane = len(x) // len(self.place)
        channels = x.shape[2]
        place = self.place.repeat_interleave(samples_per_lane, 0)
        index = place[..., None].expand(-1, -1, channels)
        return x.gather(1, index)


class Matcher:
    """The matchings of one resolution during one evaluation; ``fused`` as in :mod:`intarsia.models.layers`."""

    def __init__(self, level: LevelMerging, fused: bool | None = None) -> None:
        self.level = level
        self._fused = fused
        self._sources, self._destinations = _split(level.choice, level.height, level.width)
        self._blocks = 0
        self._last: Matching | None = None

    def match(self, x: Tensor) -> Matching:
        """The matching of the next block, whose tokens before the norm are ``x`` ``[B, N, C]``."""
        is_first_to_share = self._blocks % self.level.reuse == 0
        if self._last is None or is_first_to_share:
            self._last = self._match(x)
        self._blocks += 1
        return self._last

    def _match(self, x: Tensor) -> Matching:
        level = self.level
        place, size = match(x, self._sources, self._destinations, level.merged, level.protected, fused=self._fused)
        return Matching(
            place=place,
            size=size,
            sources=self._sources,
            destinations=self._destinations,
            weighted=level.weighted,
            fused=self._fused,
        )


def _split(choice: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Indices of sources ``[L, N - cells]`` and destinations ``[L, cells]``; tokens outside whole cells are sources."""
    device = choice.device
    cell_rows = height // 2 * 2
    cell_columns = width // 2 * 2
    grid = torch.arange(height * width, device=device).view(height, width)

    # [L, cells, 4]: the tokens of each cell, its destination first
    offsets = torch.arange(4, device=device)
    place_in_cell = (choice.long()[..., None] + offsets) % 4
    row, column = place_in_cell // 2, place_in_cell % 2
    corners = grid[:cell_rows:2, :cell_columns:2].flatten()
    cells = corners[:, None] + row * width + column

    destinations = cells[..., 0].contiguous()
    sources = cells[..., 1:].flatten(1)

    right = grid[:cell_rows, cell_columns:].flatten()
    bottom = grid[cell_rows:].flatten()
    outside = torch.cat([right, bottom]).expand(len(choice), -1)
    return torch.cat([sources, outside], dim=1), destinations
