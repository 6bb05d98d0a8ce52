"""Encoding and decoding with graphs that only pretend: what is captured when, what is reused, what goes when memory
runs out, and that no image notices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.torch import vae as module
from intarsia.backends.torch.captured_calls import CapturedCalls
from intarsia.backends.torch.vae import VaeRunner
from intarsia.errors import NotFinite
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from tests.cpu.fake_capturer import FakeCapturer

CPU = torch.device("cpu")
SIDES = (16, 24)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    made = AutoencoderKL(KLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4))
    return made.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@pytest.fixture
def made(vae: AutoencoderKL) -> Callable[..., tuple[VaeRunner, VaeRunner, FakeCapturer]]:
    """A runner with a capturer, one without, and the capturer."""

    def make(
        failures: Sequence[Exception] = (), free_others: Callable[[], None] = lambda: None
    ) -> tuple[VaeRunner, VaeRunner, FakeCapturer]:
        capturer = FakeCapturer(failures)
        return (
            VaeRunner(vae, CPU, fused=False, capturer=capturer, free_others=free_others),
            VaeRunner(vae, CPU, fused=False),
            capturer,
        )

    return make


def drawn(seed: int, sides: tuple[int, int] = SIDES) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Levels, a mask, and latents of that size."""
    rng = np.random.default_rng(seed)
    mask = rng.random(sides) > 0.5
    latents = torch.from_numpy(rng.normal(size=(1, 4, *(side // 2 for side in sides))).astype(np.float32))
    return rng.integers(0, 256, (*sides, 3), np.uint8), mask, latents


def test_captured_and_launched_one_by_one_are_the_same_bits(made):
    captured, plain, capturer = made()
    kept = []
    for seed, sides in enumerate([SIDES, (24, 16), SIDES, SIDES, (24, 16), SIDES]):
        levels, mask, latents = drawn(seed, sides)
        kept.append((captured.encode(levels, mask), plain.encode(levels, mask)))
        np.testing.assert_array_equal(captured.decode(latents), plain.decode(latents))
    for found, expected in kept:  # nothing that was handed out has been overwritten since
        assert torch.equal(found, expected)
    assert kept[0][0].shape == (2, 4, 8, 12)
    assert not torch.equal(kept[2][0], kept[3][0])
    assert capturer.captured == 4, "two sizes, in and out"
    assert capturer.replayed == 8, "the first of a size is launched"


def test_an_image_alone_is_the_first_of_two(made):
    captured, plain, _ = made()
    for seed in range(3):
        levels, mask, _ = drawn(seed)
        alone = captured.encode(levels, None)
        assert alone.shape == (1, 4, 8, 12)
        assert torch.equal(alone[0], plain.encode(levels, mask)[0])


def test_the_masked_image_is_gray_in_the_mask(made, vae):
    levels, mask, _ = drawn(0)
    image = torch.from_numpy(levels).permute(2, 0, 1).double() / 127.5 - 1
    both = torch.stack([image, torch.where(torch.from_numpy(mask), 0.0, image)])
    expected = vae.double().encode(both)
    vae.float()
    torch.testing.assert_close(made()[1].encode(levels, mask).double(), expected, atol=1e-5, rtol=0)


def test_what_is_captured_reads_where_its_input_lay():
    seen = []

    def double(x: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(x.data_ptr())
        return (2 * x,)

    calls = CapturedCalls(FakeCapturer(), 2)
    given = [torch.full((3,), float(turn)) for turn in range(4)]
    for turn, each in enumerate(given):
        assert torch.equal(calls.run("a", double, each)[0], torch.full((3,), 2.0 * turn))
    assert seen[0] == given[0].data_ptr(), "launched as it stands"
    assert len(set(seen[1:])) == 1
    assert seen[1] not in {each.data_ptr() for each in given}


def test_the_longest_unused_goes():
    capturer = FakeCapturer()
    kept = CapturedCalls(capturer, 2)
    for key in "aabbaaccaabb":
        kept.run(key, lambda x: (x,), torch.zeros(1))
        assert len(kept) <= 2
    # b gave way to c, and c to b
    assert capturer.captured == 4
    kept.clear()
    assert len(kept) == 0


def test_large_images_are_not_captured(made, monkeypatch):
    captured, _, capturer = made()
    monkeypatch.setattr(module, "_MOST_CAPTURED_PIXELS", SIDES[0] * SIDES[1] - 1)
    for seed in range(3):
        captured.decode(drawn(seed)[2])
        captured.decode(drawn(seed, (8, 8))[2])
    assert capturer.captured == 1


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_capture_that_finds_no_memory_is_not_tried_again(made):
    freed = []
    captured, plain, capturer = made([out_of_memory()], lambda: freed.append(True))
    for seed in range(4):
        _, _, latents = drawn(seed)
        np.testing.assert_array_equal(captured.decode(latents), plain.decode(latents))
    assert (capturer.captured, capturer.replayed, freed) == (0, 0, [True])
    assert not captured.notes, "whole, as before"
    captured.encode(*drawn(0)[:2])
    captured.encode(*drawn(0)[:2])
    assert capturer.captured == 1, "other work of that size may still be"


def test_what_does_not_fit_whole_is_done_in_tiles_that_are_not_captured(made, vae, monkeypatch):
    captured, plain, capturer = made()
    small, large = drawn(0)[2], drawn(0, (160, 176))[2]
    for _ in range(2):
        captured.decode(small)
    decode, whole = AutoencoderKL.decode, large.shape[2] * large.shape[3]

    def limited(self: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
        if latents.shape[2] * latents.shape[3] >= whole:
            raise out_of_memory()
        return decode(self, latents)

    expected = plain.decode(large)
    monkeypatch.setattr(AutoencoderKL, "decode", limited)
    for _ in range(3):
        found = captured.decode(large)
    assert capturer.captured == 1
    assert captured.notes == ("images of 176x160 are decoded in tiles: memory does not hold them whole",)
    assert found.shape == expected.shape == (160, 176, 3)
    captured.decode(small)
    captured.decode(small)
    assert capturer.captured == 2, "the small one's went as memory ran out, and came back"


def test_a_failure_of_another_kind_is_not_tried_again(made):
    captured, _, capturer = made([RuntimeError("operation not permitted when stream is capturing")])
    captured.decode(drawn(0)[2])
    with pytest.raises(RuntimeError, match="not permitted"):
        captured.decode(drawn(0)[2])
    assert capturer.captured == 0


def test_an_image_that_is_not_finite_is_an_error_captured_or_not(made):
    captured, _, capturer = made()
    latents = drawn(0)[2]
    for turn in range(4):
        if turn == 2:
            captured.decode(latents)
            continue
        with pytest.raises(NotFinite, match=r"values that are not finite \(float32\)"):
            captured.decode(torch.full_like(latents, torch.nan))
    assert capturer.captured == 1


def test_an_autoencoder_that_overflows_float16_decodes_once_more_in_float32(vae):
    network = copy.deepcopy(vae).half()
    with torch.no_grad():
        network.decoder.conv_in.weight *= 20_000  # the norm behind it makes the image what it was
    latents = 4 * drawn(0)[2]
    narrow = VaeRunner(network, torch.device("cpu"), fused=False)
    with torch.inference_mode():
        image = narrow.decode(latents)
        image = narrow.decode(latents)
        expected = VaeRunner(copy.deepcopy(network).float(), torch.device("cpu"), fused=False).decode(latents)
        with pytest.raises(NotFinite, match=r"values that are not finite \(float16\)"):
            narrow.decode(torch.full_like(latents, torch.nan))
    assert np.array_equal(image, expected)
    assert narrow.notes == ("the VAE overflowed float16: the image was decoded once more in float32",)


def test_nothing_that_is_captured_reads_a_value(vae):
    """On the meta device there are none to read."""
    config = KLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    with torch.device("meta"), torch.no_grad():
        ways = VaeRunner(AutoencoderKL(config).half(), torch.device("meta"), fused=False)
        levels, keep = torch.empty(*SIDES, 3, dtype=torch.uint8), torch.empty(SIDES, dtype=torch.bool)
        (encoded,) = ways._encode_together(levels, keep)
        decoded, finite = ways._decode_whole(torch.empty(1, 4, 8, 12))
    assert (encoded.shape, encoded.dtype) == ((2, 4, 8, 12), torch.float32)
    assert (decoded.shape, decoded.dtype) == ((1, *SIDES, 3), torch.uint8)
    assert (finite.shape, finite.dtype) == ((), torch.bool)
