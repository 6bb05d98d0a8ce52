"""The parts of the packaged model's training that have an exact answer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training needs torch")
pytest.importorskip("diffusers", reason="the training needs diffusers")

from tools.train_tiny import denoiser, optimiser
from tools.train_tiny.settings import read_settings

SETTINGS = read_settings().denoiser


@pytest.mark.parametrize("shape", [(32, 288), (128, 64), (96, 96)])
def test_an_orthogonal_update_keeps_the_directions_and_evens_out_their_sizes(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    matrix = torch.from_numpy(rng.standard_normal(shape)).float()
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(1.0, 0.05, len(sizes))) @ right
    turned = left.T @ optimiser.orthogonal(matrix) @ right.T
    off_diagonal = turned - torch.diag(turned.diag())
    assert off_diagonal.abs().max() < 1e-3
    assert 0.6 < float(turned.diag().min()) <= float(turned.diag().max()) < 1.3


def test_an_update_has_the_size_that_adamw_would_give() -> None:
    """Root mean square 0.2 × rate, AdamW's usual one, whatever the gradient's scale."""
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(64, 16, 3, 3).contiguous(memory_format=torch.channels_last))
    weight.grad = torch.randn(64, 16, 3, 3).contiguous(memory_format=torch.channels_last) * 1e-4
    optimiser.Muon([weight], rate=0.01, weight_decay=0.0).step()
    size = float(weight.detach().square().mean().sqrt())
    assert size == pytest.approx(0.2 * 0.01, rel=0.15)
    assert float((weight.detach() * weight.grad).sum()) < 0  # downhill


def test_where_a_shape_would_stand_is_read_off_the_mask() -> None:
    mask = np.zeros((1, 32, 32), np.float32)
    mask[0, 8:24, 4:28] = 1
    centre = denoiser._centre(mask)[0] > 0
    rows, columns = np.nonzero(centre)
    assert abs(rows.mean() + 0.5 - 16) <= 0.5
    assert abs(columns.mean() + 0.5 - 16) <= 1
    assert 7.5 <= (np.ptp(rows) + 1) / 2 <= 10


def test_the_rate_warms_up_stays_and_falls_to_a_fiftieth() -> None:
    total = SETTINGS.steps_256 + SETTINGS.steps_512
    assert denoiser.learning_rate(SETTINGS, 0) == pytest.approx(SETTINGS.rate / SETTINGS.warmup)
    assert denoiser.learning_rate(SETTINGS, int(total * SETTINGS.fall_from)) == pytest.approx(SETTINGS.rate)
    assert denoiser.learning_rate(SETTINGS, total - 1) == pytest.approx(SETTINGS.rate * 0.02)
