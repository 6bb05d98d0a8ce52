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
        alone = torch.zeros_like(self.alone, dtype=torch.float32)
        return torch.cat([alone, self.size.log()])

    def merge(self, x: Tensor) -> Tensor:
        """``[B, N, C]`` → ``[B, N - m, C]``. A product with ones and zeros adds in a fixed order."""
        destinations = x.index_select(1, self.destinations)
        into = self.into.T.to(x.dtype)
        merged = x.index_select(1, self.merged)
        sums = destinations + into @ merged

        alone = x.index_select(1, self.alone)
        means = sums / self.size[:, None].to(x.dtype)
        return torch.cat([alone, means], dim=1)

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
        is_first_to_share = self._blocks % self._reuse == 0
        if self._last is None or is_first_to_share:
            self._last = self._match(x)
        self._blocks += 1
        return self._last

    def _match(self, x: Tensor) -> _Matching:
        sources, destinations, kept, first, rest = self._tokens
        similarity, nearest = _nearest(x, sources, destinations)
        order = similarity.sort(descending=True).indices  # of equal ones, ONNX takes the first ones first

        leaving = order.index_select(0, first)
        merged = sources.index_select(0, leaving)
        target = nearest.index_select(0, leaving)

        # One more goes nowhere: a product over no tokens at all is left unwritten by ONNX Runtime.
        padded = torch.cat([merged, sources[:1]])
        nowhere = torch.full_like(sources[:1], -1)
        padded_target = torch.cat([target, nowhere])

        staying = order.index_select(0, rest)
        alone = torch.cat([kept, sources.index_select(0, staying)])
        numbers = torch.arange(destinations.shape[0])
        into = (padded_target[:, None] == numbers).float()

        # of those that are alone, of destinations, of those that merged
        place_alone = torch.arange(alone.shape[0])
        place_behind = torch.cat([numbers, target]) + alone.shape[0]
        places = torch.cat([place_alone, place_behind])
        place = torch.zeros_like(places)
        tokens = torch.cat([alone, destinations, merged])
        place = place.scatter(0, tokens, places)
        return _Matching(
            alone=alone,
            destinations=destinations,
            merged=padded,
            into=into,
            size=1 + into.sum(0),
            place=place,
            count=x.shape[1],
        )


def _nearest(x: Tensor, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """How similar each source is to its best destination, ``[S]``, and which that is."""
    # the branches side by side, so that a product is the sum of their cosines
    unit = F.normalize(x.float(), dim=2)
    unit = unit.transpose(0, 1).flatten(1)
    scores = unit.index_select(0, sources) @ unit.index_select(0, destinations).T
    similarity, nearest = scores.max(dim=1)
    return similarity, nearest
