"""What a network is given beside the latents and the prompt: time embeddings, SDXL's sizes, where tokens merge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intarsia.backends.protocol import Inputs
from intarsia.backends.token_regions import find_regions
from intarsia.backends.torch.device import upload
from intarsia.backends.torch.regions import DeviceRegion, MergingVariant, upload_regions
from intarsia.backends.torch.state import Conditioning
from intarsia.models.unet import UNet
from intarsia.schedulers import Table

__all__ = ["merging_regions", "row_embeddings", "time_ids"]


def time_ids(unet: UNet, inputs: Inputs, device: torch.device) -> Tensor | None:
    """SDXL's sizes (Podell et al. 2023, section 2.2), float32 ``[1, 6]``; None for other networks.

    Original and target are the generation size.
    """
    if unet.add_embedding is None:
        return None
    height, width = inputs.mask.shape
    return upload(np.array([[height, width, 0, 0, height, width]], np.float32), device)


def row_embeddings(unet: UNet, conditioning: Conditioning, table: Table, device: torch.device) -> Tensor:
    """``[R, 1 or branches, T]``: time embeddings of all rows, each branch with its own pooled text."""
    timesteps = upload(table.timesteps.astype(np.float32), device)
    pooled: Sequence[Tensor | None] = [None]
    if conditioning.pooled is not None:
        pooled = torch.split(conditioning.pooled, 1)

    branches = [unet.embed(timesteps, text, conditioning.time_ids) for text in pooled]
    return torch.stack(branches, dim=1)


def merging_regions(
    unet: UNet, inputs: Inputs, variant: MergingVariant, device: torch.device
) -> tuple[DeviceRegion, ...]:
    """Where tokens merge; counted on the host, where the mask is."""
    settings = inputs.token_merging
    height, width = inputs.latent_mask.shape
    map_sizes = unet.attention_sizes(height, width)
    regions = find_regions(settings, map_sizes, inputs.latent_mask, mask_aware=variant.mask_aware)
    return upload_regions(regions, device, reuse=settings.reuse, variant=variant)
