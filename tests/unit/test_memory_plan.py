"""Amounts of memory as text, and what is decided by them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import intarsia
from intarsia.backends.device_memory import host_bytes
from intarsia.backends.memory_plan import MemoryPlan, NetworkSizes, plan_memory
from intarsia.errors import BackendError
from intarsia.execution import Execution
from intarsia.memory_size import read_memory

GIB = 2**30
SD15 = NetworkSizes(unet=860_000_000, text=123_000_000, other=84_000_000)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * GIB),
        (" 8 gib ", 8 * GIB),
        ("6.5GB", 6_500_000_000),
        ("900MiB", 900 * 2**20),
        ("1TB", 10**12),
        ("12kB", 12_000),
        ("4096", 4096),
        ("4096B", 4096),
        (4096, 4096),
        (None, None),
    ],
)
def test_amounts(text, count):
    assert read_memory(text) == count


@pytest.mark.parametrize("value", ["", "8 apples", "GiB", "-8GiB", "0", 0, -1, True, 1.5, "1e9", "８GiB", "8iB", "nan"])
def test_what_is_no_amount_is_refused(value):
    with pytest.raises(BackendError, match="memory must be a number of bytes of 1 or more, or a text such as '8GiB'"):
        read_memory(value)


def test_an_engine_refuses_it_at_once():
    with pytest.raises(BackendError, match="not 'much'"):
        intarsia.Engine("null", memory="much")
    with pytest.raises(BackendError, match="not 0"):
        Execution(memory=0)


def test_text_encoders_are_released_where_weights_and_a_request_do_not_fit():
    """Float32: 4.0 GiB of weights, and 1.5 for a request."""
    fits = plan_memory(SD15, budget=6 * GIB, device=64 * GIB, value_bytes=4)
    assert not fits.releases_encoders
    assert fits.options({"x": False}) == (("memory", "a budget of 6.0 GiB: everything fits"),)
    assert fits.weights == 4 * SD15.all

    short = plan_memory(SD15, budget=5 * GIB, device=64 * GIB, value_bytes=4)
    assert short.releases_encoders
    assert short.weights == 4 * (SD15.all - SD15.text)
    assert not plan_memory(SD15, budget=5 * GIB, device=64 * GIB, value_bytes=2).releases_encoders


def test_an_adapters_image_encoder_counts_and_is_released_with_those_of_text():
    """Float32: 5.2 GiB of weights, of which the image encoder is 1.2."""
    sizes = replace(SD15, image=320_000_000)
    plan = plan_memory(sizes, budget=6 * GIB, device=64 * GIB, value_bytes=4)
    assert plan.releases_encoders
    assert plan.weights == 4 * (SD15.unet + SD15.other)


def test_the_vae_is_released_where_text_encoders_are_not_enough():
    """Float32: 3.5 GiB of weights without the text encoders, and 1.5 for a request."""
    plans = [
        plan_memory(SD15, budget=budget, device=64 * GIB, value_bytes=4) for budget in (4 * GIB, 5 * GIB + GIB // 8)
    ]
    assert [(plan.releases_encoders, plan.releases_vae) for plan in plans] == [(True, True), (True, False)]
    # the decoder still stands beside the rest while it decodes
    assert plans[0].whole_pixels == (4 * GIB - 4 * (SD15.unet + SD15.other)) // 4096


def test_without_a_budget_it_is_the_device_that_decides():
    laptop = plan_memory(SD15, budget=None, device=5 * GIB, value_bytes=4)
    assert laptop.releases_encoders
    assert laptop.whole_pixels is None
    assert laptop.options({"text": True}) == (("memory", "a device with 5.0 GiB: text"),)

    server = plan_memory(SD15, budget=None, device=64 * GIB, value_bytes=4)
    assert server.options({"text": False}) == ()


def test_a_budget_above_the_device_is_the_device():
    assert plan_memory(SD15, budget=64 * GIB, device=5 * GIB, value_bytes=4).available == 5 * GIB


def test_packed_matrices_need_twice_the_network():
    assert plan_memory(SD15, budget=None, device=8 * GIB, value_bytes=4).packs
    assert not plan_memory(SD15, budget=None, device=6 * GIB, value_bytes=4).packs


def test_a_large_model_without_a_budget_is_kept_small():
    def plan(saves_above: int | None, budget: int | None = None) -> MemoryPlan:
        return plan_memory(SD15, budget=budget, device=64 * GIB, value_bytes=4, saves_above=saves_above)

    unet = 4 * SD15.unet
    saving = plan(unet - 1)
    assert saving.releases_encoders
    assert saving.releases_vae
    assert not saving.packs
    assert saving.weights == 4 * (SD15.unet + SD15.other)
    for other in (plan(unet), plan(None), plan(unet - 1, budget=16 * GIB)):
        assert other.packs
        assert not other.releases_encoders
        assert not other.releases_vae
        assert not other.is_saving


def test_images_above_what_is_left_are_done_in_tiles():
    """5 GiB less the weights without the text encoders, by 4 KiB a pixel: SD1.5's 512x512 whole, its 1024x1024 not."""
    plan = plan_memory(SD15, budget=5 * GIB, device=64 * GIB, value_bytes=4)
    assert plan.whole_pixels == (5 * GIB - 4 * (SD15.unet + SD15.other)) // 4096
    assert 512 * 512 < plan.whole_pixels < 1024 * 1024
    assert plan_memory(SD15, budget=GIB, device=64 * GIB, value_bytes=4).whole_pixels == 0


@pytest.mark.parametrize(("budget", "slots"), [(1, 1), (3, 2), (4, 6), (8, 8)])
def test_slots_are_what_fits_beside_the_weights(budget, slots):
    """Half precision: 2.0 GiB of weights, 0.75 for a request, 0.25 for each further lane."""
    plan = plan_memory(SD15, budget=budget * GIB, device=64 * GIB, value_bytes=2, most_slots=8)
    assert plan.slots == slots


def test_the_host_has_memory():
    assert 2**28 < host_bytes() < 2**50
