"""Levels and pasting, bit for bit against numpy and against the engine's own paste."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.canvas.paste import blend
from intarsia.errors import BackendError
from intarsia.kernels.pixels import paste, paste_reference, to_levels, to_levels_reference


def decoded(shape, dtype, device):
    """Like a decoder's output: levels, the middles between two, and beyond both ends."""
    steps = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) % 530 - 10
    noise = torch.rand(steps.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.where(noise > 0.5, steps / 2, steps / 2 + noise)  # half of them exact halves
    return ((values - 127.5) / 127.5).view(shape).to(dtype).to(device)


def levels_of(picture):
    """Float32, as :meth:`TorchSession._decode` rounds."""
    values = picture.float().cpu().numpy() * np.float32(127.5) + np.float32(127.5)
    return np.rint(values.clip(0, 255)).astype(np.uint8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_levels(guard, device, dtype, layout):
    picture = guard.holding(decoded((2, 3, 23, 17), dtype, device), layout)
    expected = levels_of(picture).transpose(0, 2, 3, 1)
    found = to_levels(picture, fused=True)
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.cpu(), expected)
    np.testing.assert_array_equal(to_levels_reference(picture).cpu(), expected)


@pytest.fixture
def scene(device):
    """Base, what is pasted, and weights: every weight beside every level."""
    rng = np.random.default_rng(2)
    base, over = rng.integers(0, 256, (2, 256, 256, 3), np.uint8)
    base[:, :, 0], over[:, :, 1] = np.arange(256), np.arange(256)
    weights = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    return [torch.from_numpy(each).to(device) for each in (base, over, weights)]


def test_paste_is_the_engines(guard, scene):
    expected = blend(*(each.cpu().numpy() for each in scene))
    np.testing.assert_array_equal(paste(*scene, fused=True).cpu(), expected)
    np.testing.assert_array_equal(paste_reference(*scene).cpu(), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_paste_from_a_decoder_into_a_part_of_a_picture(guard, device, scene, layout):
    base, _, weights = scene
    weights = weights[60:90, :70].clone()
    weights[3:6, 5:50] = 0
    weights[9:12] = 255
    picture = guard.holding(decoded((1, 3, 30, 70), torch.float32, device), layout)
    over = torch.from_numpy(levels_of(picture)[0].transpose(1, 2, 0).copy())
    expected = base.cpu().numpy().copy()
    expected[40:70, 20:90] = blend(expected[40:70, 20:90], over.numpy(), weights.cpu().numpy())
    picture[0, :, 3:6, 5:50] = float("nan")  # where nothing is pasted nothing is read
    whole = guard.holding(base)
    part = whole[40:70, 20:90]
    assert paste(part, picture[0], weights, out=part, fused=True) is part
    np.testing.assert_array_equal(whole.cpu(), expected)


def test_other_layouts_are_refused(scene):
    base, over, weights = scene
    with pytest.raises(BackendError, match="to_levels: image must be contiguous or channels_last"):
        to_levels(torch.zeros(1, 3, 8, 8, device=base.device)[:, :, ::2], fused=True)
    with pytest.raises(BackendError, match="paste: over must be of shape"):
        paste(base, over[1:], weights)
    with pytest.raises(BackendError, match=r"paste: base must be uint8 .* with packed rows"):
        paste(base.transpose(0, 1), over, weights)
    with pytest.raises(BackendError, match="paste: out must be uint8"):
        paste(base, over, weights, out=base.int())
    with pytest.raises(BackendError, match="paste: weights must be uint8"):
        paste(base, over, weights.float())
