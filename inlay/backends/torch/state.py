"""What the torch session keeps of requests and lanes, and how lanes come together for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from inlay.backends.protocol import Step
from inlay.models.merging import LevelMerging, Region, level_mergings
from inlay.schedulers import Table

__all__ = ["Conditioning", "State", "batches", "mergings"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a request's lanes share.

    Attributes:
        contexts: ``[2, n, K]`` unconditional and conditional, or ``[1, n, K]`` without guidance.
        pooled: ``[2 or 1, P]`` for networks with added conditioning, else None.
        time_ids: ``[1, 6]`` likewise.
        clean: latents of the image, ``[C, h, w]``.
        mask: ``[1, h, w]``, 1 is repainted.
        extra: mask and masked image's latents ``[1 + C, h, w]`` for 9-channel networks, else None.
        image: an IP adapter's picture ``[2 or 1, m, K]``, like the contexts; None without one.
        regions: where and how tokens merge; none where nothing does.
    """

    contexts: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None
    guidance: float
    clean: Tensor
    mask: Tensor
    extra: Tensor | None
    noise_fill: bool
    image: Tensor | None = None
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, eq=False)
class State:
    """One lane on the device. ``embeddings[r]`` is ``[halves, T]``, row r's projected time embedding.

    ``choices`` are the destinations of token merging, for each region ``[rows, cells]``.
    """

    shared: Conditioning
    table: Table
    matrices: Tensor
    embeddings: Tensor
    buffer: Tensor
    noise: Tensor
    choices: tuple[Tensor, ...] = ()

    @property
    def halves(self) -> int:
        return self.shared.contexts.shape[0]

    @property
    def merged(self) -> tuple[tuple[int, int], ...]:
        """Height and merged tokens of each region: the shapes that lanes of one evaluation have to share."""
        return tuple((region.height, region.merged) for region in self.shared.regions)


def batches(steps: Sequence[Step], *, alone: bool) -> list[list[Step]]:
    """Which lanes share an evaluation: those with equal shapes, or each ``alone``."""
    if alone:
        return [[step] for step in steps]
    equal: dict[object, list[Step]] = {}
    for step in steps:
        equal.setdefault(step.state.merged, []).append(step)
    return list(equal.values())


def mergings(batch: Sequence[Step]) -> tuple[LevelMerging, ...]:
    """Token merging of one evaluation; each lane brings the destinations of its own row."""
    choices = [[drawn[step.row] for drawn in step.state.choices] for step in batch]
    return level_mergings([step.state.shared.regions for step in batch], choices)
