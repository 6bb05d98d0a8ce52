"""Encoding and decoding with graphs that only pretend: what is recorded when, what is reused, what goes when memory
runs out, and that no picture notices."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from intarsia.backends.torch import pictures as module
from intarsia.backends.torch.pictures import Pictures
from intarsia.backends.torch.recorded import Recordings
from intarsia.errors import NotFinite
from intarsia.models.vae_kl import AutoencoderKL, KLConfig
from tests.cpu.recorder import Recorder

CPU = torch.device("cpu")
SIDES = (16, 24)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    made = AutoencoderKL(KLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4))
    return made.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@pytest.fixture
def made(vae):
    """Pictures by a recorder, and by none."""

    def make(failures=(), relieve=lambda: None):
        recorder = Recorder(failures)
        return Pictures(vae, CPU, False, recorder, relieve), Pictures(vae, CPU, False), recorder

    return make


def drawn(seed, sides=SIDES):
    """Levels, a mask, and latents of that size."""
    rng = np.random.default_rng(seed)
    mask = rng.random(sides) > 0.5
    latents = torch.from_numpy(rng.normal(size=(1, 4, *(side // 2 for side in sides))).astype(np.float32))
    return rng.integers(0, 256, (*sides, 3), np.uint8), mask, latents


def test_recorded_and_launched_one_by_one_are_the_same_bits(made):
    recorded, plain, recorder = made()
    kept = []
    for seed, sides in enumerate([SIDES, (24, 16), SIDES, SIDES, (24, 16), SIDES]):
        levels, mask, latents = drawn(seed, sides)
        kept.append((recorded.encode(levels, mask), plain.encode(levels, mask)))
        np.testing.assert_array_equal(recorded.decode(latents), plain.decode(latents))
    for found, expected in kept:  # nothing that was handed out has been overwritten since
        assert torch.equal(found, expected)
    assert kept[0][0].shape == (2, 4, 8, 12)
    assert not torch.equal(kept[2][0], kept[3][0])
    assert recorder.recorded == 4, "two sizes, in and out"
    assert recorder.replayed == 8, "the first of a size is launched"


def test_a_picture_alone_is_the_first_of_two(made):
    recorded, plain, _ = made()
    for seed in range(3):
        levels, mask, _ = drawn(seed)
        alone = recorded.encode(levels, None)
        assert alone.shape == (1, 4, 8, 12)
        assert torch.equal(alone[0], plain.encode(levels, mask)[0])


def test_the_masked_picture_is_grey_in_the_mask(made, vae):
    levels, mask, _ = drawn(0)
    image = torch.from_numpy(levels).permute(2, 0, 1).double() / 127.5 - 1
    both = torch.stack([image, torch.where(torch.from_numpy(mask), 0.0, image)])
    expected = vae.double().encode(both)
    vae.float()
    torch.testing.assert_close(made()[1].encode(levels, mask).double(), expected, atol=1e-5, rtol=0)


def test_what_is_recorded_reads_where_its_input_lay():
    seen = []

    def double(x):
        seen.append(x.data_ptr())
        return (2 * x,)

    recordings = Recordings(Recorder(), 2)
    given = [torch.full((3,), float(turn)) for turn in range(4)]
    for turn, each in enumerate(given):
        assert torch.equal(recordings.run("a", double, each)[0], torch.full((3,), 2.0 * turn))
    assert seen[0] == given[0].data_ptr(), "launched as it stands"
    assert len(set(seen[1:])) == 1
    assert seen[1] not in {each.data_ptr() for each in given}


def test_the_longest_unused_goes():
    recorder, calls = Recorder(), []
    recordings = Recordings(recorder, 2)
    for key in "aabbaaccaabb":
        recordings.run(key, lambda x, key=key: calls.append(key) or (x,), torch.zeros(1))
        assert len(recordings) <= 2
    # b gave way to c, and c to b
    assert recorder.recorded == 4
    recordings.clear()
    assert len(recordings) == 0


def test_large_pictures_are_not_recorded(made, monkeypatch):
    recorded, _, recorder = made()
    monkeypatch.setattr(module, "_LARGEST", SIDES[0] * SIDES[1] - 1)
    for seed in range(3):
        recorded.decode(drawn(seed)[2])
        recorded.decode(drawn(seed, (8, 8))[2])
    assert recorder.recorded == 1


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_recording_that_finds_no_memory_is_not_tried_again(made):
    relieved = []
    recorded, plain, recorder = made([out_of_memory()], lambda: relieved.append(True))
    for seed in range(4):
        _, _, latents = drawn(seed)
        np.testing.assert_array_equal(recorded.decode(latents), plain.decode(latents))
    assert (recorder.recorded, recorder.replayed, relieved) == (0, 0, [True])
    assert not recorded.notes, "whole, as before"
    recorded.encode(*drawn(0)[:2])
    recorded.encode(*drawn(0)[:2])
    assert recorder.recorded == 1, "other work of that size may still be"


def test_what_does_not_fit_whole_is_done_in_tiles_that_are_not_recorded(made, vae, monkeypatch):
    recorded, plain, recorder = made()
    small, large = drawn(0)[2], drawn(0, (160, 176))[2]
    for _ in range(2):
        recorded.decode(small)
    decode, whole = AutoencoderKL.decode, large.shape[2] * large.shape[3]

    def limited(self, latents):
        if latents.shape[2] * latents.shape[3] >= whole:
            raise out_of_memory()
        return decode(self, latents)

    expected = plain.decode(large)
    monkeypatch.setattr(AutoencoderKL, "decode", limited)
    for _ in range(3):
        found = recorded.decode(large)
    assert recorder.recorded == 1
    assert recorded.notes == ("pictures of 176x160 are decoded in tiles: memory does not hold them whole",)
    assert found.shape == expected.shape == (160, 176, 3)
    recorded.decode(small)
    recorded.decode(small)
    assert recorder.recorded == 2, "the small one's went as memory ran out, and came back"


def test_a_failure_of_another_kind_is_not_tried_again(made):
    recorded, _, recorder = made([RuntimeError("operation not permitted when stream is capturing")])
    recorded.decode(drawn(0)[2])
    with pytest.raises(RuntimeError, match="not permitted"):
        recorded.decode(drawn(0)[2])
    assert recorder.recorded == 0


def test_a_picture_that_is_not_finite_is_an_error_recorded_or_not(made):
    recorded, _, recorder = made()
    latents = drawn(0)[2]
    for turn in range(4):
        if turn == 2:
            recorded.decode(latents)
            continue
        with pytest.raises(NotFinite, match=r"values that are not finite \(float32\)"):
            recorded.decode(torch.full_like(latents, torch.nan))
    assert recorder.recorded == 1


def test_nothing_that_is_recorded_reads_a_value(vae):
    """On the meta device there are none to read."""
    config = KLConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    with torch.device("meta"), torch.no_grad():
        ways = Pictures(AutoencoderKL(config).half(), torch.device("meta"), False)
        levels, keep = torch.empty(*SIDES, 3, dtype=torch.uint8), torch.empty(SIDES, dtype=torch.bool)
        (encoded,) = ways._encode_together(levels, keep)
        decoded, finite = ways._decode_whole(torch.empty(1, 4, 8, 12))
    assert (encoded.shape, encoded.dtype) == ((2, 4, 8, 12), torch.float32)
    assert (decoded.shape, decoded.dtype) == ((1, *SIDES, 3), torch.uint8)
    assert (finite.shape, finite.dtype) == ((), torch.bool)
