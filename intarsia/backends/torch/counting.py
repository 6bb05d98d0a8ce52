"""The cost of a computation, counted on the meta device: without weights, a GPU, or time.

Floating-point operations are those of matrix products, convolutions and attention, a multiply-add counting as
two. *Operations* are what torch sends to the device: kernels and library calls; views and allocations are
left out. Results lie as a GPU's libraries leave them, which the meta device does not know: a convolution's in
channels_last memory where its input or its weights are, as cuDNN does it; attention's, which is one operation, with the
heads beside one another for each token, so that joining them is a view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Count", "count"]

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
# Make or rename memory without touching it, and are no views by their declaration.
_NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach_")


@dataclass(frozen=True)
class Count:
    """FLOPs, and how often each operation ran."""

    flops: int = 0
    operations: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Operations of all kinds."""
        return sum(self.operations.values())

    def __add__(self, other: Count) -> Count:
        return Count(self.flops + other.flops, Counter(self.operations) + Counter(other.operations))

    def times(self, often: int) -> Count:
        """The same, run ``often`` times."""
        return Count(self.flops * often, {name: often * number for name, number in self.operations.items()})


def count(call: Callable[[], object]) -> Count:
    """Run ``call``, whose tensors are all on the meta device, and count."""
    operations: Counter[str] = Counter()
    attention = _Attention(operations)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _Operations(operations), attention:
        call()
    return Count(flops.get_total_flops() + attention.flops, dict(operations.most_common()))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches the device."""

    def __init__(self, operations: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations = operations

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE.name):
            # In inference mode an operation arrives before torch takes it apart. (``func.decompose`` would prefer
            # decompositions for compilers, which launch more.)
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _NO_KERNEL:
            self._operations[name] += 1
        result = func(*args, **kwargs)
        return _as_cudnn_leaves_it(result, args) if name == "convolution" else result


def _as_cudnn_leaves_it(result: Tensor, args: tuple[Any, ...]) -> Tensor:
    """A convolution's result in channels_last memory where its input or its weights are."""
    last = torch.channels_last
    strided = [tensor for tensor in args[:2] if tensor.ndim == 4 and not tensor.is_contiguous()]
    if any(tensor.is_contiguous(memory_format=last) for tensor in strided):
        return torch.empty_like(result, memory_format=last)
    return result


class _Attention(TorchFunctionMode):
    """Attention is one operation here, whatever torch would make of it on this device."""

    def __init__(self, operations: Counter[str]) -> None:
        super().__init__()
        self._operations = operations
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        inputs: dict[str, Tensor] = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = inputs["query"], inputs["key"], inputs["value"]
        batch, heads, rows, width = query.shape
        self._operations["scaled_dot_product_attention"] += 1
        self.flops += 2 * batch * heads * rows * key.shape[2] * (width + value.shape[3])
        return query.new_empty(batch, rows, heads, value.shape[3]).transpose(1, 2)
