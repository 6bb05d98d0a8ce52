"""GroupNorm of channels_last feature maps, with the time embedding before it and SiLU behind it in the same pass.

In channels_last memory a feature map is ``[B, H*W, C]``. A program takes a run of rows (places) and a chunk
of whole groups, as many as fill its lanes: channels in a group need not be a power of two. A large map is
cut into row blocks; each leaves mean and squared deviations of its groups, and the second launch, cut the
same way, puts them together in a fixed order (Chan et al. 1979), so that results do not vary from run to run.
What is compiled depends on channels and groups alone: which launch it is, and what goes with the norm, it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.kernels.launch import Kernel, ceil_div, check, fused_wanted, operation, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["Norm", "group_norm", "group_norm_reference"]

# Elements of one program's tile: 32 registers a thread with four warps.
_TILE = 4096
# Up to so many places one launch does both, as a second launch would cost more than it spreads. Of 16 x 16 places two
# launches already have eight times the programs: the 20 or so of one launch leave most multiprocessors idle.
_ONE_LAUNCH = 64
# Row blocks of a large map, and the chunks that there should be: enough programs for a large GPU even of one picture,
# and few enough blocks that combining them is nothing.
_MOST_BLOCKS, _CHUNKS = 128, 4
_DEEPEST = 4096


@dataclass(frozen=True, eq=False)
class Norm:
    """What a layer knows: ``weight`` and ``bias`` ``[C]`` of any float dtype, and whether SiLU follows."""

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
    """Group normalisation (Wu & He 2018) of ``x + add``, with SiLU where the norm says so; float32 inside.

    Args:
        x: ``[B, C, H, W]`` float16, bfloat16 or float32 in channels_last memory.
        add: ``[B, C]``, for every place the same (a time embedding); its rows may be slices of wider ones.
        fused: None takes the kernel on CUDA (and meta), the reference on a CPU.

    Returns:
        Shape and dtype of ``x``, channels_last.

    Raises:
        BackendError: a shape or layout is another, or triton is missing.
    """
    if not fused_wanted(fused, x, norm.weight, norm.bias, add):
        return group_norm_reference(x, norm, add)
    _refuse_layouts(x, norm, add)
    made: Tensor = _group_norm(x, norm.weight, norm.bias, add, norm.groups, norm.eps, norm.silu)
    return made


def _alike(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@operation("(Tensor x, Tensor weight, Tensor bias, Tensor? add, int groups, float eps, bool silu) -> Tensor", _alike)
def _group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, groups: int, eps: float, silu: bool
) -> Tensor:
    out = _alike(x)
    if out.numel():
        _launch(x, Norm(groups, weight, bias, eps, silu), add, out)
    return out


def _refuse_layouts(x: Tensor, norm: Norm, add: Tensor | None) -> None:
    check(x.ndim == 4, "group_norm", "x", "of four dimensions", f"of shape {tuple(x.shape)}")
    batch, channels = x.shape[:2]
    packed = x.is_contiguous(memory_format=torch.channels_last)
    check(packed, "group_norm", "x", "in channels_last memory", f"of strides {x.stride()}")
    fits = norm.groups > 0 and channels % norm.groups == 0
    check(fits, "group_norm", "groups", f"a divisor of {channels} channels", norm.groups)
    check(channels // norm.groups <= _DEEPEST, "group_norm", "channels in a group", f"at most {_DEEPEST}", channels)
    for name, tensor in (("weight", norm.weight), ("bias", norm.bias)):
        fits = tensor.shape == (channels,) and tensor.is_contiguous()
        check(fits, "group_norm", name, f"contiguous of shape ({channels},)", tuple(tensor.shape))
    if add is not None:
        fits = add.shape == (batch, channels) and add.stride(1) == 1
        check(fits, "group_norm", "add", f"of shape ({batch}, {channels}), channels packed", tuple(add.shape))


def _chunk(groups: int, depth: int) -> tuple[int, int]:
    """Groups of ``depth`` channels that one program takes, and its lanes.

    128 lanes (fewer where there are few channels, but not less than 64 bytes of them) if at most an eighth of them
    would idle (depth 10: 12 groups in 120 lanes), else the next size where that is better filled (depth 80: 3 groups
    in 240 of 256).
    """
    narrow = max(power_of_two(depth), min(128, max(32, power_of_two(groups * depth) // _CHUNKS)))

    def filled(lanes: int) -> float:
        return min(groups, lanes // depth) * depth / lanes

    lanes = narrow if filled(narrow) >= 7 / 8 else max(narrow, 2 * narrow, key=filled)
    taken = min(groups, lanes // depth)
    return taken, power_of_two(taken * depth)


def _launch(x: Tensor, norm: Norm, add: Tensor | None, out: Tensor) -> None:
    batch, channels, height, width = x.shape
    places, depth = height * width, channels // norm.groups
    taken, lanes = _chunk(norm.groups, depth)
    rows = max(1, _TILE // lanes)
    single = places <= _ONE_LAUNCH
    # a block is whole tiles, so that only the last one has fewer rows
    tiles = ceil_div(places, rows) if single else ceil_div(ceil_div(places, rows), _MOST_BLOCKS)
    blocks = ceil_div(places, rows * tiles)
    grid = (blocks, ceil_div(norm.groups, taken), batch)
    sizes = {"DEPTH": depth, "TAKEN": taken, "CHUNK": power_of_two(taken), "LANES": lanes, "ROWS": rows}
    sizes |= {"BLOCKS": power_of_two(_MOST_BLOCKS), "num_warps": 8 if lanes * rows > _TILE else 4}
    moments = x.new_empty(1 if single else 2 * batch * blocks * norm.groups, dtype=torch.float32)
    shape = (places, channels, norm.groups, tiles, blocks, norm.eps)
    given = (x, norm.weight, norm.bias, x if add is None else add, 0 if add is None else add.stride(0), moments, out)
    for measures, applies in [(1, 1)] if single else [(1, 0), (0, 1)]:
        _normalise.launch(grid, *given, *shape, int(add is not None), int(norm.silu), measures, applies, **sizes)


def _block_moments(
    picture: tl.tensor,
    channel: tl.tensor,
    used: tl.tensor,
    member: tl.tensor,
    added: tl.tensor,
    channels: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    DEPTH: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Means and squared deviations ``[CHUNK]`` of the groups in rows ``start … end``.

    Each lane keeps those of its own channel, one tile after the other; channels of equal count are joined last.
    """
    mean = tl.zeros([LANES], tl.float32)
    squares = tl.zeros([LANES], tl.float32)
    before = 0
    while before < end - start:
        row = start + before + tl.arange(0, ROWS)
        inside = (row < end)[:, None] & used[None, :]
        place = picture + row.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value + added[None, :], 0.0)
        count = tl.minimum(end - start - before, ROWS)
        tile_mean = tl.sum(value, axis=0) / count
        centred = tl.where(inside, value - tile_mean[None, :], 0.0)
        share = count / (before + count)
        apart = tile_mean - mean
        mean += apart * share
        squares += tl.sum(centred * centred, axis=0) + apart * apart * before * share
        before += ROWS
    among = member & used[None, :]
    group_mean = tl.sum(tl.where(among, mean[None, :], 0.0), axis=1) / DEPTH
    off = tl.where(among, mean[None, :] - group_mean[:, None], 0.0)
    rows_seen = (end - start).to(tl.float32)
    return group_mean, tl.sum(tl.where(among, squares[None, :], 0.0) + off * off * rows_seen, axis=1)


def _map_moments(
    ledger: tl.tensor,
    listed: tl.tensor,
    groups: tl.tensor,
    places: tl.tensor,
    blocks: tl.tensor,
    height: tl.tensor,
    DEPTH: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Those of the whole map, from all its blocks of ``height`` rows, always in the same order."""
    index = tl.arange(0, BLOCKS)
    known = (index < blocks)[:, None] & listed[None, :]
    line = ledger[None, :] + index[:, None] * 2 * groups
    means = tl.load(line, mask=known, other=0.0)
    seen = tl.maximum(tl.minimum(places - index * height, height), 0).to(tl.float32)[:, None]
    mean = tl.sum(means * (seen / places), axis=0)
    off = tl.where(known, means - mean[None, :], 0.0)
    each = tl.load(line + groups, mask=known, other=0.0)
    return mean, tl.sum(each + off * off * (seen * DEPTH), axis=0)


@partial(
    Kernel,
    general=("places", "tiles", "blocks", "adds", "silu", "measures", "applies"),
    parts=(_block_moments, _map_moments),
)
def _normalise(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    add: tl.tensor,
    add_stride: tl.tensor,
    moments: tl.tensor,
    out: tl.tensor,
    places: tl.tensor,
    channels: tl.tensor,
    groups: tl.tensor,
    tiles: tl.tensor,
    blocks: tl.tensor,
    eps: tl.tensor,
    adds: tl.tensor,
    silu: tl.tensor,
    measures: tl.tensor,
    applies: tl.tensor,
    DEPTH: tl.constexpr,
    TAKEN: tl.constexpr,
    CHUNK: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """One program: a row block, ``tiles`` tiles high, of ``TAKEN`` groups. ``moments`` is ``[B, blocks, 2, groups]``.

    The last four numbers are 0 or 1. A small map is measured and normalised in one launch, a large one in two.
    """
    part, batch = tl.program_id(0), tl.program_id(2)
    first_group = tl.program_id(1) * TAKEN
    lane = tl.arange(0, LANES)
    channel = first_group * DEPTH + lane
    used = (lane < TAKEN * DEPTH) & (channel < channels)
    slot = tl.arange(0, CHUNK)
    group = first_group + slot
    listed = (slot < TAKEN) & (group < groups)
    member = (lane[None, :] // DEPTH) == slot[:, None]
    at = batch.to(tl.int64)
    added = tl.load(add + at * add_stride + channel, mask=used & (adds != 0), other=0.0).to(tl.float32)
    height = ROWS * tiles
    start = part * height
    end = tl.minimum(start + height, places)
    picture = x + at * places * channels
    ledger = moments + batch * blocks * 2 * groups + group
    mean = tl.zeros([CHUNK], tl.float32)
    squares = tl.zeros([CHUNK], tl.float32)

    if measures != 0:
        mean, squares = _block_moments(picture, channel, used, member, added, channels, start, end, DEPTH, LANES, ROWS)
        if applies == 0:
            tl.store(ledger + part * 2 * groups, mean, mask=listed)
            tl.store(ledger + (part * 2 + 1) * groups, squares, mask=listed)

    if applies != 0:
        if measures == 0:
            mean, squares = _map_moments(ledger, listed, groups, places, blocks, height, DEPTH, BLOCKS)
        spread = 1.0 / tl.sqrt(squares / (places * DEPTH) + eps)
        # from groups back to lanes, and all of it into one multiplication and one addition
        gain = tl.sum(tl.where(member, spread[:, None], 0.0), axis=0)
        centre = tl.sum(tl.where(member, mean[:, None], 0.0), axis=0)
        gain *= tl.load(weight + channel, mask=used, other=0.0).to(tl.float32)
        shift = tl.load(bias + channel, mask=used, other=0.0).to(tl.float32)
        while start < end:
            row = start + tl.arange(0, ROWS)
            inside = (row < end)[:, None] & used[None, :]
            place = row.to(tl.int64)[:, None] * channels + channel[None, :]
            value = tl.load(picture + place, mask=inside, other=0.0).to(tl.float32)
            value = (value + (added - centre)[None, :]) * gain[None, :] + shift[None, :]
            if silu != 0:
                value = value / (1.0 + tl.exp(-value))
            tl.store(out + at * places * channels + place, value, mask=inside)
            start += ROWS
