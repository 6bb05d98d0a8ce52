"""Token merging (:mod:`intarsia.models.merging`) in a graph: the same mathematics, sizes left to the run.

Which tokens are destinations, which sources, and which are left as they are does not depend on the tokens. So the host
says it, as indices (:mod:`intarsia.backends.onnx.merging`), and how many merge, by the lengths of two of the inputs.
One graph then serves every ratio, mask and size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["INPUTS", "LevelMatcher", "Tokens"]

INPUTS = ("sources", "destinations", "kept", "first", "rest")
"""What the graph takes for each resolution; a number follows."""


class Tokens(NamedTuple):
    """Of one resolution, int64 all.

    Attributes:
        sources, destinations: [S] and [D], unprotected; ``kept``: [K], the others.
        first, rest: places 0 … m - 1 and m … S - 1 in the order of similarity: those that merge, those that do not.
    """

    sources: Tensor
    destinations: Tensor
    kept: Tensor
    first: Tensor
    rest: Tensor


@dataclass(frozen=True, eq=False)
class _Matching:
    """See :class:`intarsia.models.merging.Matching`.

    Attributes:
        away: [m + 1], tokens that merge, and one that goes nowhere; ``together``: [m + 1, D], 1 where one merges into
            a destination.
        count: N.
    """

    alone: Tensor
    destinations: Tensor
    away: Tensor
    together: Tensor
    size: Tensor
    place: Tensor
    count: int

    @property
    def log_size(self) -> Tensor:
        """[N - m]."""
        return torch.cat([torch.zeros_like(self.alone, dtype=torch.float32), self.size.log()])

    def merge(self, x: Tensor) -> Tensor:
        """[B, N, C] → [B, N - m, C]. A product with ones and zeros adds in a fixed order."""
        sums = x.index_select(1, self.destinations) + self.together.T.to(x.dtype) @ x.index_select(1, self.away)
        return torch.cat([x.index_select(1, self.alone), sums / self.size[:, None].to(x.dtype)], dim=1)

    def unmerge(self, x: Tensor) -> Tensor:
        """[B, N - m, C] → [B, N, C]."""
        shape = (x.shape[0], self.count, x.shape[2])  # said, so that the number of tokens need not be proven
        out: Tensor = torch.onnx.ops.symbolic(
            "Gather", (x, self.place), {"axis": 1}, dtype=x.dtype, shape=shape, version=18
        )
        return out


class LevelMatcher:
    """Matchings of one resolution, as the transformer blocks ask for them.

    Args:
        reuse: how many blocks share one.
    """

    def __init__(self, tokens: Tokens, reuse: int) -> None:
        self._tokens, self._reuse = tokens, reuse
        self._blocks = 0
        self._last: _Matching | None = None

    def match(self, x: Tensor) -> _Matching:
        """The matching of the next block, whose tokens before the norm are ``x`` [B, N, C]."""
        if self._last is None or self._blocks % self._reuse == 0:
            self._last = self._match(x)
        self._blocks += 1
        return self._last

    def _match(self, x: Tensor) -> _Matching:
        sources, destinations, kept, first, rest = self._tokens
        # the halves side by side, so that a product is the sum of their cosines
        unit = F.normalize(x.float(), dim=2).transpose(0, 1).flatten(1)
        scores = unit.index_select(0, sources) @ unit.index_select(0, destinations).T
        best, nearest = scores.max(dim=1)
        order = best.sort(descending=True).indices  # of equal ones, ONNX takes the first ones first
        gone = order.index_select(0, first)
        away, target = sources.index_select(0, gone), nearest.index_select(0, gone)
        # One more goes nowhere: a product over no tokens at all is left unwritten by ONNX Runtime.
        summed, into = torch.cat([away, sources[:1]]), torch.cat([target, torch.full_like(sources[:1], -1)])
        alone = torch.cat([kept, sources.index_select(0, order.index_select(0, rest))])
        ends = torch.arange(destinations.shape[0])
        together = (into[:, None] == ends).float()
        stands = torch.cat([torch.arange(alone.shape[0]), torch.cat([ends, target]) + alone.shape[0]])
        place = torch.zeros_like(stands).scatter(0, torch.cat([alone, destinations, away]), stands)
        return _Matching(alone, destinations, summed, together, 1 + together.sum(0), place, x.shape[1])
