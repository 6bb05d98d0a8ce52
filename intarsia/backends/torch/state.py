"""What the torch session keeps of requests and lanes, and how lanes come together for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from intarsia.backends.protocol import Step
from intarsia.backends.torch.regions import DeviceRegion, RegionShape
from intarsia.schedulers import Table

__all__ = ["Company", "Conditioning", "State", "batches"]


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
    regions: tuple[DeviceRegion, ...] = ()


@dataclass(frozen=True)
class Company:
    """What lanes must have in common to be evaluated together: shapes and settings.

    Attributes:
        latents: ``(C, h, w)``.
        extra: channels that the network sees beside the sample.
        slots: state slots of a lane.
        tokens, image_tokens: of the prompt, and of an IP adapter's picture.
        own_times: the halves of a lane have time embeddings of their own (SDXL's carry the pooled text).
        copies: of a lane's network input; one for all halves, where the prompt alone tells them apart.
    """

    latents: tuple[int, int, int]
    extra: int
    halves: int
    slots: int
    tokens: int
    image_tokens: int
    own_times: bool
    levels: tuple[RegionShape, ...]

    @property
    def copies(self) -> int:
        return self.halves if self.own_times else 1


@dataclass(frozen=True, eq=False)
class State:
    """One lane on the device.

    Attributes:
        rows: the table, as the session's way of stepping wants it.
        embeddings: ``[R, H, T]``, every row's projected time embedding; ``H`` is 1 where the halves share it.
        buffer: float32 ``[S + 2, C, h, w]``: state slots, guided output, the row's fresh noise. Of a lane that is on
            a stage, the stage has the newer one.
        noise: float32 ``[C, h, w]``, the unit noise that it started from.
        choices: the destinations of token merging, for each region ``[R, cells]``.
    """

    shared: Conditioning
    table: Table
    rows: Tensor
    embeddings: Tensor
    buffer: Tensor
    noise: Tensor
    choices: tuple[Tensor, ...] = ()

    @property
    def halves(self) -> int:
        return self.shared.contexts.shape[0]

    @property
    def copies(self) -> int:
        """Of its network input: one for all halves, where they have one time embedding."""
        return self.embeddings.shape[1]

    @property
    def company(self) -> Company:
        """What others must have in common with it."""
        shared = self.shared
        channels, height, width = self.noise.shape
        return Company(
            latents=(channels, height, width),
            extra=0 if shared.extra is None else shared.extra.shape[0],
            halves=self.halves,
            slots=self.buffer.shape[0] - 2,
            tokens=shared.contexts.shape[1],
            image_tokens=0 if shared.image is None else shared.image.shape[1],
            own_times=self.copies > 1,
            levels=tuple(region.shape for region in shared.regions),
        )


def batches(steps: Sequence[Step], *, alone: bool) -> list[list[Step]]:
    """Which lanes share an evaluation: those of one company, or each ``alone``."""
    if alone:
        return [[step] for step in steps]
    equal: dict[object, list[Step]] = {}
    for step in steps:
        equal.setdefault(step.state.company, []).append(step)
    return list(equal.values())
