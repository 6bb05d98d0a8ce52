"""Mixed batches: requests with every documented scheduler, many step counts and strengths, in shared batches."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="makes its model with diffusers: pip install 'intarsia[torch]'")

import intarsia
from intarsia.schedulers import NAMES, table
from tests.random_model import write_model, write_registry

SIZE, SLOTS = 64, 8


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_registry(folder / "weights.toml", nine=(write_model(folder / "nine", 9, "tiny"), "sd15-inpaint"))


def mixed_requests(count: int, most_steps: int) -> list[intarsia.InpaintRequest]:
    """18 schedulers in turn, steps from 4 on, strength 0.3 … 1, samples 1 … 4."""
    rng = np.random.default_rng(18)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[10:50, 12:52] = 255
    made = []
    while len(made) < count:
        fields = {
            "scheduler": NAMES[len(made) % 18],
            "karras_sigmas": bool(rng.integers(2)),
            "samples": int(rng.integers(1, 5)),
            "steps": int(rng.integers(4, most_steps + 1)),
            "strength": float(rng.uniform(0.3, 1)),
            "seed": int(rng.integers(1000)),
        }
        try:
            table(fields["scheduler"], fields["steps"], karras=fields["karras_sigmas"], strength=fields["strength"])
        except intarsia.RequestError:
            continue  # a combination that is refused by name: no step left, or more steps than LCM has
        made.append(
            intarsia.InpaintRequest(
                init_image=image, mask_image=mask, width=SIZE, height=SIZE, prompt=f"p{len(made) % 5}", **fields
            )
        )
    return made


def bits(result: intarsia.Result) -> list[bytes]:
    return [np.asarray(image).tobytes() for image in result.generated]


@pytest.mark.parametrize(
    ("count", "most_steps"),
    [pytest.param(36, 8, id="few"), pytest.param(64, 50, id="many", marks=pytest.mark.slow)],
)
def test_images_of_mixed_requests_have_the_bits_that_they_have_alone(registry, count, most_steps):
    """An image has the bits that it has alone, and the slots are full but for the last requests."""
    requests = mixed_requests(count, most_steps)
    with intarsia.Engine("torch", "cpu", registry, slots=1) as engine:
        alone = [bits(engine.run(request)) for request in requests]

    with intarsia.Engine("torch", "cpu", registry, slots=SLOTS) as engine:
        tickets = []
        for place, request in enumerate(requests):
            tickets.append(engine.submit(request))
            if place % 16 == 15:
                time.sleep(0.05)  # they arrive at different times
        together = [bits(ticket.result()) for ticket in tickets]
        counters = engine.counters

    for request, one, other in zip(requests, alone, together, strict=True):
        assert one == other, f"{request.scheduler} differs with others"
    rows = sum(
        ticket.resolved.plan.sampler.evaluations * request.samples
        for ticket, request in zip(tickets, requests, strict=True)
    )
    assert counters.lane_rows == rows
    ideal = rows / SLOTS
    print(f"{rows} rows in {counters.evaluations} evaluations of {SLOTS}; ideal {ideal:.0f}; fill {counters.fill:.3f}")
    assert counters.evaluations <= 1.1 * ideal


@pytest.mark.slow
def test_cancelling_some_in_the_middle(registry):
    chosen = mixed_requests(18, 10)
    with intarsia.Engine("torch", "cpu", registry, slots=SLOTS) as engine:
        expected = [bits(engine.run(request)) for request in chosen]
        before = engine.counters.lane_rows
        tickets = [engine.submit(request) for request in chosen]
        leaving = tickets[1::3]
        for ticket in leaving:
            next(ticket.progress(), None)
            ticket.cancel()
        for place, ticket in enumerate(tickets):
            try:
                assert bits(ticket.result()) == expected[place], chosen[place].scheduler
            except intarsia.Cancelled:
                assert ticket in leaving
        spent = engine.counters.lane_rows - before
    assert any(ticket.exception() for ticket in leaving)
    planned = sum(t.resolved.plan.sampler.evaluations * r.samples for t, r in zip(tickets, chosen, strict=True))
    assert spent < planned
