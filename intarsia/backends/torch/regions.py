"""Regions of token merging on the device, and what lanes with equal shapes merge side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from intarsia.backends.token_regions import TokenRegion
from intarsia.backends.torch.device import upload
from intarsia.models.merging import LevelMerging

__all__ = ["DeviceRegion", "MergingVariant", "RegionShape", "level_mergings", "upload_regions"]


@dataclass(frozen=True)
class MergingVariant:
    """The two additions to tomesd's token merging; without both it is tomesd. An engine always has both.

    Attributes:
        weighted: a merged key counts as many times as the tokens that it stands for.
        mask_aware: tokens in and near the mask are left as they are.
    """

    weighted: bool = True
    mask_aware: bool = True


@dataclass(frozen=True, kw_only=True)
class RegionShape:
    """What regions must have in common to merge side by side."""

    height: int
    width: int
    merged: int
    cells: int
    is_protected: bool
    weighted: bool
    reuse: int


@dataclass(frozen=True, eq=False)
class DeviceRegion:
    """A :class:`~intarsia.backends.token_regions.TokenRegion` on the device.

    ``protected`` is bool ``[H*W]``; None protects nothing.
    """

    shape: RegionShape
    protected: Tensor | None


def upload_regions(
    regions: Sequence[TokenRegion], device: torch.device, *, reuse: int = 1, variant: MergingVariant = MergingVariant()
) -> tuple[DeviceRegion, ...]:
    """Regions on the device; one that is not mask-aware protects nothing."""
    uploaded = []
    for region in regions:
        shape = RegionShape(
            height=region.height,
            width=region.width,
            merged=region.merged,
            cells=region.cells,
            is_protected=variant.mask_aware,
            weighted=variant.weighted,
            reuse=reuse,
        )

        protected = None
        if variant.mask_aware:
            protected = upload(region.protected, device)
        uploaded.append(DeviceRegion(shape, protected))
    return tuple(uploaded)


def level_mergings(
    regions: Sequence[Sequence[DeviceRegion]], choices: Sequence[Sequence[Tensor]]
) -> tuple[LevelMerging, ...]:
    """Lanes side by side, for one evaluation.

    Args:
        regions: of each lane; shapes must be equal.
        choices: of each lane, for each region ``[cells]``.
    """
    mergings = []
    for level, first in enumerate(regions[0]):
        shape = first.shape
        protected = None
        if shape.is_protected:
            protected = torch.stack([cast(Tensor, lane[level].protected) for lane in regions])

        merging = LevelMerging(
            height=shape.height,
            width=shape.width,
            merged=shape.merged,
            choice=torch.stack([lane[level] for lane in choices]),
            protected=protected,
            weighted=shape.weighted,
            reuse=shape.reuse,
        )
        mergings.append(merging)
    return tuple(mergings)
