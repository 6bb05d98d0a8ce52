"""Attention by whichever of torch's kernels suits a shape, chosen once and written down.

On CUDA ``F.scaled_dot_product_attention`` has several kernels behind it, and which one is fastest differs by shape and
by release. A session holds :class:`Choices`; the first call with a shape tries them, all later ones take what was
found. Elsewhere, and where nobody holds any, it is torch's own default.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from intarsia.errors import BackendError

__all__ = ["DEFAULT", "KERNELS", "Choices", "attend"]

DEFAULT = "torch's default"

KERNELS = ("flash", "cudnn", "products", "efficient", "math")
"""In the order in which they are tried. ``products`` is for heads that are too wide for flash and cuDNN, as that of an
autoencoder is. ``math`` writes all scores to memory, and is for what no other can do."""

# How much faster a kernel has to be than one before it in the list; less is noise, and would make the choice, and with
# it the last bits of a picture, differ from run to run.
_MARGIN = 0.95
_WARMUPS, _RUNS, _CALLS = 2, 5, 10
# About 2 ms of a GPU's clock: longer than the host takes to launch the calls of a run.
_BUSY_CYCLES = 4_000_000
# Heads that are no wider are the fused kernels' own ground; wider ones only ``efficient`` does, on few of a GPU's
# multiprocessors.
_WIDEST_FUSED = 256
# Bytes of scores that ``products`` has in memory at a time.
_SCORES = 128 * 2**20
# Widths of heads, in elements, that the kernels take as they are. Others torch pads itself, in its default.
_ALIGNED = 8
# cuDNN makes a plan for each shape, which takes longer than attention to a few keys could ever win back.
_CUDNN_KEYS = 512

Probe = Callable[[Callable[[], object]], float]


class Choices:
    """Which kernel attends, by shape; what is not in there yet is tried on first use.

    Args:
        timed: False takes the first kernel of the list that can do a shape, so that the same kernels run in every
            process.
        seconds: how a call is timed, and at the same time whether it runs at all.
    """

    def __init__(self, timed: bool = True, seconds: Probe | None = None) -> None:
        self.found: dict[str, str] = {}
        self._timed = timed
        self._seconds = seconds or _device_seconds

    @property
    def record(self) -> tuple[tuple[str, str], ...]:
        """(shape, kernel), as results carry them."""
        return tuple(sorted(self.found.items()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Calls of :func:`attend` in here go by these choices."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def kernel(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> str | None:
        """The kernel for these shapes; None while a graph is captured, if they come up only then.

        Raises:
            BackendError: no kernel can do it.
            torch.OutOfMemoryError: memory ran out as they were tried; nothing is written down.
        """
        shape = shape_of(query, key)
        if shape not in self.found:
            if query.is_cuda and torch.cuda.is_current_stream_capturing():
                return None
            self.found[shape] = self._try(shape, query, key, value, scale)
        return self.found[shape]

    def _try(self, shape: str, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> str:
        best, least = None, float("inf")
        for name in KERNELS:
            if best is not None and (name == "math" or not self._timed):
                break
            if name == "cudnn" and key.shape[2] < _CUDNN_KEYS:
                continue
            if name == "products" and key.shape[3] <= _WIDEST_FUSED:
                continue

            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns why a kernel cannot
                    took = self._seconds(partial(_by, name, query, key, value, scale))
            except torch.OutOfMemoryError:
                raise  # says nothing about the kernel: the caller frees memory, and the shape is tried again
            except RuntimeError:
                continue  # this kernel cannot do this shape on this device

            if best is None or took < _MARGIN * least:
                best, least = name, took

        if best is None:
            raise BackendError(f"none of torch's attention kernels ({', '.join(KERNELS)}) can do {shape}")
        return best


_current: ContextVar[Choices | None] = ContextVar("attention", default=None)


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None) -> Tensor:
    """``softmax(query · keyᵀ · scale) · value`` for each head.

    Args:
        query: ``[B, heads, T, d]``; key, value: ``[B, heads, N, d]``.
        scale: None is ``1 / √d``.
    """
    choices = _current.get()
    name = None
    if choices is not None and query.is_cuda and query.shape[-1] % _ALIGNED == 0:
        name = choices.kernel(query, key, value, scale)
    if name is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    return _by(name, query, key, value, scale)


def shape_of(query: Tensor, key: Tensor) -> str:
    """What a choice depends on: batch, heads, queries, keys, width of a head, dtype."""
    batch, heads, count, width = query.shape
    kind = str(query.dtype).removeprefix("torch.")
    return f"{batch}x{heads}x{count}x{key.shape[2]}x{width} {kind}"


def _by(name: str, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention by one kernel, called by its own name.

    ``torch.nn.attention.sdpa_kernel`` would say the same by switches of the whole process, which another thread may
    turn in between.

    Raises:
        RuntimeError: the kernel cannot do these shapes on this device.
    """
    return _OPERATORS[name](query, key, value, scale)


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    attended, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)
    return cast(Tensor, attended)


def _cudnn(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    no_bias, log_sums = None, False
    attended, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, no_bias, log_sums, scale=scale)
    return cast(Tensor, attended)


def _products(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Two matrix products with a softmax between them, a bounded number of queries at a time.

    Scores and softmax are float32, as inside the fused kernels.
    """
    batch, heads, _, width = query.shape
    if scale is None:
        scale = width**-0.5
    queries = query.flatten(0, 1)
    keys = key.flatten(0, 1)
    values = value.flatten(0, 1)

    query_bytes = 4 * batch * heads * keys.shape[1]
    at_once = max(1, _SCORES // query_bytes)
    parts = [_attended(some, keys, values, scale) for some in torch.split(queries, at_once, dim=1)]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return attended.view(batch, heads, *attended.shape[1:])


def _attended(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """``[n, T, d]`` from ``[n, T, d]``, ``[n, N, d]`` and ``[n, N, d]``."""
    # one name for scores and softmax: large as they are, one of them at a time is enough
    weights = _float32_product(queries, keys.transpose(1, 2))
    weights.mul_(scale)
    weights = torch.softmax(weights, dim=2)
    return torch.bmm(weights.to(values.dtype), values)


def _float32_product(left: Tensor, right: Tensor) -> Tensor:
    """``left · right`` in float32, whatever it is made of."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def _efficient(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    no_bias, log_sums = None, False
    attend_by = torch.ops.aten._scaled_dot_product_efficient_attention
    attended, *_ = attend_by(query, key, value, no_bias, log_sums, scale=scale)
    return cast(Tensor, attended)


def _math(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    attended, *_ = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, scale=scale)
    return cast(Tensor, attended)


_OPERATORS = {"flash": _flash, "cudnn": _cudnn, "products": _products, "efficient": _efficient, "math": _math}


def _device_seconds(call: Callable[[], object]) -> float:
    """Median seconds of one call on the device, from a few runs of several calls each.

    The host takes longer to launch attention than short attention takes. So the device is kept busy while the host
    launches, and what lies between the events is the device's work alone.
    """
    for _ in range(_WARMUPS):
        call()

    seconds: list[float] = []
    for _ in range(_RUNS):
        began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda._sleep(_BUSY_CYCLES)  # type: ignore[no-untyped-call]
        began.record()
        for _ in range(_CALLS):
            call()
        ended.record()
        ended.synchronize()

        milliseconds = began.elapsed_time(ended)
        seconds.append(milliseconds / 1e3 / _CALLS)
    return float(statistics.median(seconds))
