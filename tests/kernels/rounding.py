"""How close a kernel's results have to be."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_rounded(actual: Tensor, exact: Tensor, noise: float) -> None:
    """``actual`` is ``exact`` (float64) computed in float32 with an error of ``noise``, and rounded once.

    To half a unit in the last place in float16; in bfloat16 to a whole one, as Triton's interpreter cuts off.
    """
    share = torch.finfo(actual.dtype).eps / (1 if actual.dtype == torch.bfloat16 else 2)
    error = (actual.double().cpu() - exact).abs()
    assert bool((error <= exact.abs() * share + noise).all()), f"largest error {error.max():.2e}"
