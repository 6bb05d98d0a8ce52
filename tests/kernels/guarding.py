"""Tensors that show what a kernel wrote, and where it should not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

_PAD = 64


class Guard:
    """Allocates tensors between two canaries, and filled with poison for a kernel to overwrite."""

    def __init__(self) -> None:
        self._allocated: list[tuple[Tensor, Tensor]] = []

    def empty(
        self,
        shape: Any,
        dtype: torch.dtype,
        device: Any,
        layout: torch.memory_format | None = torch.contiguous_format,
    ) -> Tensor:
        """Poisoned: NaN, or the largest integer."""
        poison = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        strides = torch.empty(shape, device="meta").to(memory_format=layout).stride()
        count = torch.Size(shape).numel()
        storage = torch.full((count + 2 * _PAD,), poison, dtype=dtype, device=device)
        self._allocated.append((storage, storage.clone()))
        return storage.as_strided(shape, strides, _PAD)

    def holding(self, data: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        """``data`` between canaries."""
        return self.empty(data.shape, data.dtype, data.device, layout).copy_(data)

    def allocate_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What kernels' wrappers allocate is poisoned and guarded, too."""
        new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like

        def guarded_new_empty(like: Tensor, *shape: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
            if options:  # the interpreter's own
                return new_empty(like, *shape, dtype=dtype, **options)
            size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
            return self.empty(size, dtype or like.dtype, like.device)

        def guarded_empty_like(
            like: Tensor, *, memory_format: torch.memory_format | None = None, **options: Any
        ) -> Tensor:
            if options:
                return empty_like(like, memory_format=memory_format, **options)
            return self.empty(like.shape, like.dtype, like.device, memory_format)

        monkeypatch.setattr(torch.Tensor, "new_empty", guarded_new_empty)
        monkeypatch.setattr(torch, "empty_like", guarded_empty_like)

    def check(self) -> None:
        """No canary was overwritten."""
        for storage, before in self._allocated:
            for part in (slice(0, _PAD), slice(-_PAD, None)):
                # as bytes, for NaN is not equal to itself
                assert torch.equal(storage[part].view(torch.uint8), before[part].view(torch.uint8))
