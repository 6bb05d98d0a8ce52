"""GroupNorm of channels_last feature maps, with the time embedding before it and SiLU behind it in the same pass.

In channels_last memory a feature map is ``[B, H*W, C]``. A program takes a run of rows (pixels) and a chunk of whole
groups, as many as fill its columns: channels in a group need not be a power of two. A large map is cut into row blocks;
each leaves mean and squared deviations of its groups, and the second launch, cut the same way, combines them in a fixed
order (Chan et al. 1979), so that results do not vary from run to run.

Compiled per (channels, groups); the pass and the optional inputs are run-time arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.launch import ceil_div, check, launching, operation, power_of_two, runs_fused

__all__ = ["Norm", "group_norm", "group_norm_reference"]

# Elements of one program's tile: 32 registers a thread with four warps.
_TILE = 4096
# Up to so many pixels one launch does both, as a second launch would cost more than it spreads. Of 16 x 16 pixels two
# launches already have eight times the programs: the 20 or so of one launch leave most multiprocessors idle.
_ONE_LAUNCH_PIXELS = 64
# Row blocks of a large map, and the chunks that there should be: enough programs for a large GPU even for one image,
# and few enough blocks that combining them is nothing.
_MAX_BLOCKS, _CHUNKS = 128, 4
_MAX_GROUP_CHANNELS = 4096
# A chunk has 128 columns, but fewer where there are few channels, down to 64 bytes of float16.
_COLUMNS, _MIN_COLUMNS = 128, 32
# The share of a chunk's columns that hold channels; below it the next size is tried.
_MIN_FILL = 7 / 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm:
    """A layer's parameters: ``weight`` and ``bias`` ``[C]`` of any float dtype, and whether SiLU follows."""

    groups: int
    weight: Tensor
    bias: Tensor
    eps: float = 1e-5
    silu: bool = False


def group_norm_reference(x: Tensor, norm: Norm, add: Tensor | None = None) -> Tensor:
    """In float32, rounded once; see :func:`group_norm`."""
    wide = x.float()
    if add is not None:
        wide = wide + add.float()[:, :, None, None]
    wide = F.group_norm(wide, norm.groups, norm.weight.float(), norm.bias.float(), norm.eps)
    if norm.silu:
        wide = F.silu(wide, inplace=True)
    return wide.to(x.dtype)


def group_norm(x: Tensor, norm: Norm, add: Tensor | None = None, *, fused: bool | None = None) -> Tensor:
    """Group normalization (Wu & He 2018) of ``x + add``, with SiLU where the norm says so; float32 inside.

    Args:
        x: ``[B, C, H, W]`` float16, bfloat16 or float32 in channels_last memory.
        add: ``[B, C]``, the same for every pixel (a time embedding); its rows may be slices of wider ones.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``x``, channels_last.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not runs_fused(fused, x, norm.weight, norm.bias, add):
        return group_norm_reference(x, norm, add)

    _check_map(x, norm)
    _check_vectors(x, norm, add)
    normed: Tensor = _group_norm(x, norm.weight, norm.bias, add, norm.groups, norm.eps, norm.silu)
    return normed


def _check_map(x: Tensor, norm: Norm) -> None:
    check(x.ndim == 4, "group_norm: x", "of four dimensions", f"of shape {tuple(x.shape)}")
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    check(is_channels_last, "group_norm: x", "in channels_last memory", f"of strides {x.stride()}")

    channels = x.shape[1]
    divides = norm.groups > 0 and channels % norm.groups == 0
    check(divides, "group_norm: groups", f"a divisor of {channels} channels", norm.groups)
    depth = channels // norm.groups
    check(depth <= _MAX_GROUP_CHANNELS, "group_norm: channels in a group", f"at most {_MAX_GROUP_CHANNELS}", channels)


def _check_vectors(x: Tensor, norm: Norm, add: Tensor | None) -> None:
    batch, channels = x.shape[:2]
    for name, tensor in (("weight", norm.weight), ("bias", norm.bias)):
        fits = tensor.shape == (channels,) and tensor.is_contiguous()
        check(fits, f"group_norm: {name}", f"contiguous of shape ({channels},)", tuple(tensor.shape))

    if add is not None:
        fits = add.shape == (batch, channels) and add.stride(1) == 1
        check(fits, "group_norm: add", f"of shape ({batch}, {channels}), channels packed", tuple(add.shape))


def _empty_like(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@operation(
    "(Tensor x, Tensor weight, Tensor bias, Tensor? add, int groups, float eps, bool silu) -> Tensor", _empty_like
)
def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, groups: int, eps: float, silu: bool
) -> Tensor:
    out = _empty_like(x)
    if out.numel():
        norm = Norm(groups=groups, weight=weight, bias=bias, eps=eps, silu=silu)
        _launch(x, norm, add, out)
    return out


@dataclass(frozen=True, kw_only=True)
class _Tiling:
    """How a feature map is cut into programs.

    Attributes:
        groups: groups of one chunk; columns: its width, a power of two.
        rows: pixels of one tile; tiles: how many of them a block has; blocks: how many of those an image has.
        chunks: how many of them an image has; batch: images.
    """

    groups: int
    columns: int
    rows: int
    tiles: int
    blocks: int
    chunks: int
    batch: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs of one launch."""
        return self.blocks, self.chunks, self.batch


def _tiling(shape: torch.Size, groups: int) -> _Tiling:
    batch, channels, height, width = shape
    pixels = height * width
    chunk_groups, columns = _chunk(groups, channels // groups)
    rows = max(1, _TILE // columns)

    # a block is whole tiles, so that only the last one has fewer rows
    tiles = ceil_div(pixels, rows)
    if pixels > _ONE_LAUNCH_PIXELS:
        tiles = ceil_div(tiles, _MAX_BLOCKS)
    return _Tiling(
        groups=chunk_groups,
        columns=columns,
        rows=rows,
        tiles=tiles,
        blocks=ceil_div(pixels, rows * tiles),
        chunks=ceil_div(groups, chunk_groups),
        batch=batch,
    )


def _chunk(groups: int, depth: int) -> tuple[int, int]:
    """Groups of ``depth`` channels that one program takes, and its columns.

    128 columns (fewer where there are few channels, but not less than 64 bytes of them) if at most an eighth of them
    would idle (depth 10: 12 groups in 120 columns), else the next size where that is better filled (depth 80: 3 groups
    in 240 of 256).
    """
    share = power_of_two(groups * depth) // _CHUNKS
    columns = min(_COLUMNS, max(_MIN_COLUMNS, share))
    columns = max(columns, power_of_two(depth))

    def fill(columns: int) -> float:
        whole_groups = min(groups, columns // depth)
        return whole_groups * depth / columns

    if fill(columns) < _MIN_FILL:
        columns = max(columns, 2 * columns, key=fill)
    chunk_groups = min(groups, columns // depth)
    return chunk_groups, power_of_two(chunk_groups * depth)


def _empty_moments(x: Tensor, count: int) -> Tensor:
    """For the means and squared deviations of so many groups of each image's blocks; never empty."""
    return x.new_empty(max(1, 2 * len(x) * count), dtype=torch.float32)


def _launch(x: Tensor, norm: Norm, add: Tensor | None, out: Tensor) -> None:
    """One launch for a small map; for a large one a launch that measures its blocks, and one that normalizes them."""
    channels, height, width = x.shape[1:]
    tiling = _tiling(x.shape, norm.groups)
    is_small = height * width <= _ONE_LAUNCH_PIXELS
    moments = _empty_moments(x, 0 if is_small else tiling.blocks * norm.groups)

    with launching("group_norm", x):
        from intarsia.kernels.group_norm_triton import group_norm_kernel

        launch = partial(
            group_norm_kernel[tiling.grid],
            x=x,
            weight=norm.weight,
            bias=norm.bias,
            add=x if add is None else add,
            add_stride=0 if add is None else add.stride(0),
            moments=moments,
            out=out,
            pixels=height * width,
            channels=channels,
            groups=norm.groups,
            tiles=tiling.tiles,
            blocks=tiling.blocks,
            eps=norm.eps,
            has_add=int(add is not None),
            silu=int(norm.silu),
            DEPTH=channels // norm.groups,
            GROUPS=tiling.groups,
            SLOTS=power_of_two(tiling.groups),
            COLUMNS=tiling.columns,
            ROWS=tiling.rows,
            BLOCKS=power_of_two(_MAX_BLOCKS),
            num_warps=8 if tiling.columns * tiling.rows > _TILE else 4,
        )
        if is_small:
            launch(measures=1, applies=1)
        else:
            launch(measures=1, applies=0)
            launch(measures=0, applies=1)
