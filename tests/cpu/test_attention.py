"""Which attention kernel is taken: by time, by order, or by what can do it at all; and that it is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")

from torch.nn import functional as F

from intarsia.errors import BackendError
from intarsia.kernels import attention
from intarsia.kernels.attention import KERNELS, Choices, attend, shape_of

QUERY, KEY = torch.randn(2, 3, 10, 8), torch.randn(2, 3, 600, 8)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels in the order in which they are called, none of them really."""
    names = []
    monkeypatch.setattr(attention, "_by", lambda name, *_: names.append(name))
    return names


def timed(seconds: dict[str, float], tried: list[str]) -> Callable[[Callable[[], object]], float]:
    """A probe that calls, then says what it took; those missing cannot do it."""

    def probe(call: Callable[[], object]) -> float:
        call()
        if tried[-1] not in seconds:
            raise RuntimeError("No available kernel. Aborting execution.")
        return seconds[tried[-1]]

    return probe


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"flash": 3.0, "cudnn": 2.0, "efficient": 4.0, "math": 1.0}, "cudnn"),
        ({"flash": 2.0, "cudnn": 1.95, "efficient": 2.0}, "flash"),  # less than a twentieth is noise
        ({"efficient": 9.0, "math": 1.0}, "efficient"),  # math is for what no other can do
        ({"math": 5.0}, "math"),
    ],
)
def test_the_fastest_that_can(tried, seconds, chosen):
    choices = Choices(seconds=timed(seconds, tried))
    assert choices.kernel(QUERY, KEY, KEY, None) == chosen
    count = len(tried)
    assert choices.kernel(QUERY, KEY, KEY, None) == chosen
    assert len(tried) == count, "tried once for a shape"
    assert choices.record == (("2x3x10x600x8 float32", chosen),)


def test_the_first_that_can_where_bits_must_not_depend_on_time(tried):
    choices = Choices(timed=False, seconds=timed({"cudnn": 9.0, "efficient": 1.0}, tried))
    assert choices.kernel(QUERY, KEY, KEY, None) == "cudnn"
    assert tried == ["flash", "cudnn"]


def test_few_keys_are_no_plan_of_cudnns(tried):
    few = KEY[:, :, :77]
    choices = Choices(seconds=timed({"flash": 3.0, "cudnn": 1.0, "efficient": 4.0}, tried))
    assert choices.kernel(QUERY, few, few, None) == "flash"
    assert tried == ["flash", "efficient"]


def test_products_are_for_heads_that_are_too_wide_for_the_fused_kernels(tried):
    wide = torch.randn(1, 1, 600, 512)
    choices = Choices(seconds=timed({"products": 1.0, "efficient": 4.0}, tried))
    assert choices.kernel(wide, wide, wide, None) == "products"
    choices = Choices(seconds=timed({"products": 4.0, "efficient": 1.0}, tried))
    assert choices.kernel(wide, wide, wide, None) == "efficient", "as it is timed"
    tried.clear()
    Choices(seconds=timed({"efficient": 9.0}, tried)).kernel(QUERY, KEY, KEY, None)
    assert "products" not in tried


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_are_attention(monkeypatch, at_once, scale, dtype):
    """In parts or whole, against torch's own in float32."""
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 1, count, 512).to(dtype) for count in (64, 40, 40))
    monkeypatch.setattr(attention, "_SCORES", at_once * 4 * 2 * 40)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), scale=scale)
    found = attention._by("products", query, key, value, scale)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    # float16 rounds the weights and the result: 2 times 5e-4 of values up to 4; float32 sums in another order
    torch.testing.assert_close(found.float(), expected, atol=4e-3 if dtype == torch.float16 else 5e-5, rtol=0)


def test_products_hold_a_bounded_number_of_scores(monkeypatch):
    """1024 x 1024 pixels are 16,384 places: 1 GiB of scores, were they all there at once."""
    most, product = [], attention._float32_product

    def counted(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        most.append(4 * left.shape[0] * left.shape[1] * right.shape[2])
        return product(left, right)

    monkeypatch.setattr(attention, "_float32_product", counted)
    heads = torch.randn(1, 1, 16384, 512, device="meta", dtype=torch.float16)
    assert attention._by("products", heads, heads, heads, None).shape == heads.shape
    assert max(most) <= attention._SCORES
    assert sum(most) == 4 * 16384**2


def test_what_none_can_do_is_an_error(tried):
    choices = Choices(seconds=timed({}, tried))
    with pytest.raises(
        BackendError, match=f"none of torch's attention kernels \\({', '.join(KERNELS)}\\) can do 2x3x10"
    ):
        choices.kernel(QUERY, KEY, KEY, None)


def test_shapes_are_kept_apart():
    shapes = {shape_of(q, k) for q in (QUERY, QUERY[:1], QUERY.half(), QUERY[..., :4]) for k in (KEY, KEY[:, :, :5])}
    assert len(shapes) == 8


def test_memory_that_runs_out_while_kernels_are_tried_is_no_choice(tried):
    """Neither "none can do it", nor the kernel that happened to fit, for the life of a session."""

    def exhausted(call: Callable[[], object]) -> float:
        call()
        if tried[-1] in ("flash", "cudnn"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 1.0

    choices = Choices(seconds=exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        choices.kernel(QUERY, KEY, KEY, None)
    assert choices.found == {}


def test_every_kernel_is_an_operator_of_torchs():
    """A CPU runs one of them; the others' arguments are checked by the shapes that come out."""
    expected = F.scaled_dot_product_attention(QUERY, KEY, KEY)
    torch.testing.assert_close(attention._by("math", QUERY, KEY, KEY, None), expected, atol=5e-6, rtol=0)

    query, key = QUERY.to("meta", torch.float16), KEY.to("meta", torch.float16)
    for name in KERNELS:
        assert attention._by(name, query, key, key, 0.5).shape == expected.shape
    for name in ("flash", "cudnn", "efficient"):
        with pytest.raises(NotImplementedError, match="CPU"):
            attention._by(name, QUERY, KEY, KEY, None)


def test_kernels_are_timed_without_the_host(monkeypatch):
    """What lies between the events is queued while the device is busy with something else."""
    log = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, other: object) -> float:
            return 30.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("busy"))
    seconds = attention._device_seconds(lambda: log.append("call"))
    run = log[log.index("busy") :]
    run = run[: run.index("wait") + 1]
    assert run == ["busy", "event", *["call"] * run.count("call"), "event", "wait"]
    assert run.count("call") > 1
    assert seconds == pytest.approx(0.03 / run.count("call"))


def test_a_cpu_has_torchs_default_and_no_choices():
    choices = Choices(seconds=lambda call: pytest.fail("a kernel was tried"))
    with choices.applied():
        found = attend(QUERY, KEY, KEY, scale=0.5)
    assert torch.equal(found, F.scaled_dot_product_attention(QUERY, KEY, KEY, scale=0.5))
    assert choices.record == ()
