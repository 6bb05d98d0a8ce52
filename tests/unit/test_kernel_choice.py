"""Which kernels an engine is asked for, and what a backend without such a choice says."""

from __future__ import annotations

import numpy as np
import pytest

import intarsia
from intarsia.errors import BackendError


def ask() -> intarsia.InpaintRequest:
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    return intarsia.InpaintRequest(
        prompt="a", init_image=np.zeros((64, 64, 3), np.uint8), mask_image=mask, steps=2, seed=1
    )


def test_no_such_kernels():
    with pytest.raises(BackendError, match="kernels must be auto, fused or plain, not 'fast'"):
        intarsia.Engine("null", kernels="fast")


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_a_backend_without_the_choice_says_nothing_of_it(kernels):
    with intarsia.Engine("null", kernels=kernels) as engine:
        assert engine.run(ask()).runtime.kernels == ""


def test_a_backend_without_fused_kernels_refuses_them():
    with intarsia.Engine("null", kernels="fused") as engine, pytest.raises(BackendError, match="has no fused kernels"):
        engine.run(ask())
