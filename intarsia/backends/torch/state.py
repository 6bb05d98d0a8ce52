"""A request's conditioning and a lane's state on a torch device, and which lanes share an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.regions import DeviceRegion, RegionShape
from intarsia.schedulers import Table

__all__ = ["BatchKey", "Conditioning", "State", "batches"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conditioning:
    """What all lanes of a request share.

    Branches are those of classifier-free guidance: with it there are two, unconditional and conditional; without it
    the conditional one alone.

    Attributes:
        cross_kv: ``[branches, n, K]``, keys and values of all cross-attentions for the prompts.
        pooled: ``[branches, P]``, pooled text for networks with added conditioning, else None.
        time_ids: ``[1, 6]``, sizes for networks with added conditioning, else None.
        image_latents: float32 ``[C, h, w]``.
        mask: float32 ``[1, h, w]``, 1 is repainted, between 0 and 1 from a later row on.
        inpaint_latents: ``[1 + C, h, w]``, mask and the masked image's latents, for 9-channel networks, else None.
        noise_fill: the masked area starts from noise alone.
        image_kv: ``[branches, m, K]``, keys and values of an IP adapter's image; None without one.
        regions: where and how tokens merge; empty where nothing does.
        is_soft: the mask has levels between.
    """

    cross_kv: Tensor
    pooled: Tensor | None
    time_ids: Tensor | None
    guidance_scale: float
    image_latents: Tensor
    mask: Tensor
    inpaint_latents: Tensor | None
    noise_fill: bool
    image_kv: Tensor | None = None
    regions: tuple[DeviceRegion, ...] = ()
    is_soft: bool = False

    @property
    def keeps_known(self) -> bool:
        """The loop overwrites the known region: the network has no input for it, or none for the levels of a mask."""
        return self.inpaint_latents is None or self.is_soft


@dataclass(frozen=True, kw_only=True)
class BatchKey:
    """Lanes with equal keys can be evaluated in one batch: their shapes and settings are the same.

    Attributes:
        latents: ``(C, h, w)``.
        inpaint_channels: channels that the network takes beside the sample.
        branches: of classifier-free guidance, 1 or 2.
        state_slots: of a lane's buffer.
        tokens, image_tokens: of the prompt, and of an IP adapter's image.
        has_branch_embeddings: each branch has its own time embeddings (SDXL's carry the pooled text).
        regions: token merging, one for each resolution that merges.
        keeps_known: as :attr:`Conditioning.keeps_known`.
    """

    latents: tuple[int, int, int]
    inpaint_channels: int
    branches: int
    state_slots: int
    tokens: int
    image_tokens: int
    has_branch_embeddings: bool
    regions: tuple[RegionShape, ...]
    keeps_known: bool

    @property
    def input_copies(self) -> int:
        """Copies of a lane's sample in the network's input: one for all branches where only the prompts differ."""
        return self.branches if self.has_branch_embeddings else 1


@dataclass(frozen=True, eq=False, kw_only=True)
class State:
    """One lane on the device.

    Attributes:
        packed_table: the table as the session's stepper reads it.
        embeddings: ``[R, E, T]``, every row's projected time embedding; ``E`` is 1 where the branches share it.
        buffer: float32 ``[S + 2, C, h, w]``: state slots, guided prediction, the row's fresh noise. While the lane is
            in a static batch, the batch has the current one.
        noise: float32 ``[C, h, w]``, the unit noise that the lane started from.
        choices: destinations of token merging, uint8 ``[R, cells]`` for each region.
    """

    conditioning: Conditioning
    table: Table
    packed_table: Tensor
    embeddings: Tensor
    buffer: Tensor
    noise: Tensor
    choices: tuple[Tensor, ...] = ()

    @property
    def branches(self) -> int:
        """Branches of classifier-free guidance, 1 or 2."""
        return self.conditioning.cross_kv.shape[0]

    @property
    def input_copies(self) -> int:
        """As :attr:`BatchKey.input_copies`."""
        return self.embeddings.shape[1]

    @property
    def batch_key(self) -> BatchKey:
        """Equal for lanes that can be evaluated in one batch."""
        conditioning = self.conditioning
        channels, height, width = self.noise.shape
        inpaint_channels = 0
        if conditioning.inpaint_latents is not None:
            inpaint_channels = conditioning.inpaint_latents.shape[0]
        image_tokens = 0
        if conditioning.image_kv is not None:
            image_tokens = conditioning.image_kv.shape[1]

        return BatchKey(
            latents=(channels, height, width),
            inpaint_channels=inpaint_channels,
            branches=self.branches,
            state_slots=self.buffer.shape[0] - 2,
            tokens=conditioning.cross_kv.shape[1],
            image_tokens=image_tokens,
            has_branch_embeddings=self.input_copies > 1,
            regions=tuple(region.shape for region in conditioning.regions),
            keeps_known=conditioning.keeps_known,
        )


def batches(steps: Sequence[Step], *, alone: bool) -> list[list[Step]]:
    """Lanes that share an evaluation: those with equal batch keys; each by itself with ``alone``."""
    if alone:
        return [[step] for step in steps]

    by_key: dict[BatchKey, list[Step]] = {}
    for step in steps:
        key = step.state.batch_key
        by_key.setdefault(key, []).append(step)
    return list(by_key.values())
