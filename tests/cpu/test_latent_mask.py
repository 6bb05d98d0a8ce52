"""Our latent mask against torch's own nearest interpolation, as diffusers' inpainting pipelines call it."""

from __future__ import annotations

import numpy as np
import pytest

from intarsia.canvas.mask import dilate, latent_mask

torch = pytest.importorskip("torch", reason="torch is not installed")


def interpolated(mask: np.ndarray, factor: int) -> np.ndarray:
    size = (mask.shape[0] // factor, mask.shape[1] // factor)
    tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size=size)[0, 0].numpy()


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("size", [(64, 64), (512, 512), (2048, 64), (504, 1000)])
@pytest.mark.parametrize("seed", range(4))
def test_blobs_and_boxes_are_sampled_alike(size, factor, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.bool_)
    for _ in range(3):
        y, x = rng.integers(0, size[0] - 16), rng.integers(0, size[1] - 16)  # no side under two cells
        mask[y : y + rng.integers(16, 200), x : x + rng.integers(16, 200)] = True
        seeds = np.zeros(size, np.bool_)
        seeds[rng.integers(8, size[0] - 8), rng.integers(8, size[1] - 8)] = True
        mask |= dilate(seeds, 18)
    np.testing.assert_array_equal(latent_mask(mask, factor), interpolated(mask, factor))


@pytest.mark.parametrize("seed", range(4))
def test_any_mask_has_at_least_what_torch_has(seed):
    """The one rule more only adds cells, and only such that hold masked pixels far from any sampled one."""
    mask = np.random.default_rng(seed).random((256, 192)) < 0.001
    ours, theirs = latent_mask(mask) > 0, interpolated(mask, 8) > 0
    assert (ours >= theirs).all()
    added = ours & ~theirs
    assert added.any()
    cells = mask.reshape(32, 8, 24, 8).any(axis=(1, 3))
    assert (cells >= added).all()
    near = np.pad(theirs, 1)
    for dy in range(3):
        for dx in range(3):
            assert not (near[dy : dy + 32, dx : dx + 24] & added).any()
