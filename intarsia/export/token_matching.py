"""Token merging (:mod:`intarsia.models.merging`) in a graph: the same mathematics, sizes left to the run.

Which tokens are destinations, sources or protected does not depend on their values. So these are inputs: indices that
the host makes (:mod:`intarsia.backends.onnx.token_inputs`), and the lengths of two of them say how many merge. One
graph then serves every ratio, mask and size.
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
    """Token indices of one resolution, int64.

    Attributes:
        sources, destinations: ``[S]`` and ``[D]``, unprotected; ``kept``: ``[K]``, the protected ones.
        first, rest: ranks 0 … m - 1 and m … S - 1 in the order of similarity: those that merge, those that do not.
    """

    sources: Tensor
    destinations: Tensor
    kept: Tensor
    first: Tensor
    rest: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class _Matching:
    """Which of N tokens are one; see :class:`intarsia.models.merging.Matching`.

    Attributes:
        alone: ``[N - D - m]``, tokens that stay as they are.
        destinations: ``[D]``.
        merged: ``[m + 1]``, tokens that merge, and one that goes nowhere.
        into: ``[m + 1, D]``, 1 where one merges into a destination.
        size: ``[D]``, how many tokens each destination stands for.
        place: ``[N]``, where each token is among the ``N - m`` that are left: first ``alone``, then destinations.
        count: N.
    """

    alone: Tensor
    destinations: Tensor
    merged: Tensor
    into: Tensor
    size: Tensor
    place: Tensor
    count: int

    @property
    def log_size(self) -> Tensor:
        """``[N - m]``, what is added to the attention logits of each key."""
        return torch.cat([torch.zeros_like(self.alone, dtype=torch.float32), self.size.log()])

    def merge(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` → ``[B, N - m, C]``. A product with ones and zeros adds in a fixed order."""
        sums = x.index_select(1, self.destinations) + self.into.T.to(x.dtype) @ x.index_select(1, self.merged)
        return torch.cat([x.index_select(1, self.alone), sums / self.size[:, None].to(x.dtype)], dim=1)

    def unmerge(self, x: Tensor) -> Tensor:
        """``[B, N - m, C]`` → ``[B, N, C]``."""
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
        """The matching of the next block, whose tokens before the norm are ``x`` ``[B, N, C]``."""
        if self._last is None or self._blocks % self._reuse == 0:
            self._last = self._match(x)
        self._blocks += 1
        return self._last

    def _match(self, x: Tensor) -> _Matching:
        sources, destinations, kept, first, rest = self._tokens

        # the branches side by side, so that a product is the sum of their cosines
        unit = F.normalize(x.float(), dim=2).transpose(0, 1).flatten(1)
        scores = unit.index_select(0, sources) @ unit.index_select(0, destinations).T
        best, nearest = scores.max(dim=1)
        order = best.sort(descending=True).indices  # of equal ones, ONNX takes the first ones first

        leaving = order.index_select(0, first)
        merged, target = sources.index_select(0, leaving), nearest.index_select(0, leaving)
        # One more goes nowhere: a product over no tokens at all is left unwritten by ONNX Runtime.
        padded, padded_target = torch.cat([merged, sources[:1]]), torch.cat([target, torch.full_like(sources[:1], -1)])

        alone = torch.cat([kept, sources.index_select(0, order.index_select(0, rest))])
        numbers = torch.arange(destinations.shape[0])
        into = (padded_target[:, None] == numbers).float()

        places = torch.cat([torch.arange(alone.shape[0]), torch.cat([numbers, target]) + alone.shape[0]])
        place = torch.zeros_like(places).scatter(0, torch.cat([alone, destinations, merged]), places)
        return _Matching(
            alone=alone,
            destinations=destinations,
            merged=padded,
            into=into,
            size=1 + into.sum(0),
            place=place,
            count=x.shape[1],
        )
