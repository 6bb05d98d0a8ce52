"""Tests of the kernels that tests/cpu runs under Triton's interpreter and tests/gpu on a GPU.

They take a fixture ``device`` from where they are imported, and ``guard``.
"""

from __future__ import annotations

import pytest
import torch

_PAD = 64


class Guard:
    """Tensors between two canaries, and filled with poison where a kernel is to fill them."""

    def __init__(self) -> None:
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(self, shape, dtype, device, layout=torch.contiguous_format) -> torch.Tensor:
        """Poisoned: NaN, or the largest integer."""
        poison = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
        strides = torch.empty(shape, device="meta").to(memory_format=layout).stride()
        count = torch.Size(shape).numel()
        storage = torch.full((count + 2 * _PAD,), poison, dtype=dtype, device=device)
        self._taken.append((storage, storage.clone()))
        return storage.as_strided(shape, strides, _PAD)

    def holding(self, data: torch.Tensor, layout=torch.contiguous_format) -> torch.Tensor:
        """``data`` between canaries."""
        made = self.empty(data.shape, data.dtype, data.device, layout)
        return made.copy_(data)

    def check(self) -> None:
        for storage, before in self._taken:
            for part in (slice(0, _PAD), slice(-_PAD, None)):
                # as bytes, for NaN is not equal to itself
                assert torch.equal(storage[part].view(torch.uint8), before[part].view(torch.uint8))


@pytest.fixture
def guard(monkeypatch):
    """Whatever a kernel's wrapper allocates is poisoned and guarded; the canaries are looked at in the end."""
    made, new_empty, empty_like = Guard(), torch.Tensor.new_empty, torch.empty_like

    def new(like, *shape, dtype=None, **other):
        if other:  # the interpreter's own
            return new_empty(like, *shape, dtype=dtype, **other)
        size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return made.empty(size, dtype or like.dtype, like.device)

    def alike(like, *, memory_format=None, **other):
        if other:
            return empty_like(like, memory_format=memory_format, **other)
        return made.empty(like.shape, like.dtype, like.device, memory_format)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", new)
        patched.setattr(torch, "empty_like", alike)
        yield made
    made.check()


def assert_rounded(found: torch.Tensor, exact: torch.Tensor, noise: float) -> None:
    """``found`` is ``exact`` (float64) computed in float32 with an error of ``noise``, and rounded once.

    To half a unit in the last place in float16; in bfloat16 to a whole one, as Triton's interpreter cuts off.
    """
    share = torch.finfo(found.dtype).eps / (1 if found.dtype == torch.bfloat16 else 2)
    error = (found.double().cpu() - exact).abs()
    assert bool((error <= exact.abs() * share + noise).all()), f"largest error {error.max():.2e}"
