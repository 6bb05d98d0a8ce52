"""Previews on the null backend: when there is one, whose it is, what is around it, and why there is none."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia.backends.null import NullBackend, NullSession
from intarsia.errors import BackendError, OutOfMemory, RequestError


def drawn_cells(result: intarsia.Result, sample: int = 0) -> np.ndarray:
    """The generated image's pixel at the top left of each latent cell, by which cells are repainted."""
    return np.asarray(result.generated[sample])[::8, ::8]


def repainted(ticket: intarsia.Ticket) -> np.ndarray:
    return ticket.resolved.inputs.latent_mask > 0.5


def test_a_preview_shows_what_is_drawn_inside_the_mask_and_the_request_around_it(engine, request_of):
    ticket = engine.submit(request_of(width=128, height=96, samples=2), preview_every=1)
    result = ticket.result()
    inside = repainted(ticket)
    assert 0 < inside.sum() < inside.size
    around = ticket.resolved.inputs.image.reshape(12, 8, 16, 8, 3).mean(axis=(1, 3))

    events = list(ticket.progress())
    assert [event.has_preview for event in events] == [True] * 4
    for event in events:
        for sample in range(2):
            image = event.preview(sample)
            assert (image.mode, image.size) == ("RGB", (16, 12))
            np.testing.assert_array_equal(np.asarray(image)[inside], drawn_cells(result, sample)[inside])
            np.testing.assert_allclose(np.asarray(image)[~inside], around[~inside], atol=1)
    assert events[-1].preview().tobytes() != events[-1].preview(1).tobytes()
    assert events[-1].preview().tobytes() == events[-1].preview(0).tobytes()


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4]), (1000, [4])])
def test_there_is_one_every_so_many_evaluations_and_after_the_last(engine, request_of, every, expected):
    *events, _ = engine.stream(request_of(), preview_every=every)
    assert [event.step for event in events if event.has_preview] == expected
    for event in events:
        if not event.has_preview:
            with pytest.raises(BackendError, match=f"step {event.step} has no preview: there is one every {every}"):
                event.preview()


def test_without_being_asked_for_nothing_is_copied(engine, request_of, monkeypatch):
    def snapshot(self: object, state: object, shares: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(NullSession, "snapshot", snapshot)
    *events, result = engine.stream(request_of())
    assert len(events) == 4
    assert len(result.images) == 1
    with pytest.raises(BackendError, match="no previews were asked for"):
        events[0].preview()


@pytest.mark.parametrize("every", [0, -1, 1001, True, 2.0, "2"])
def test_other_distances_are_refused(engine, request_of, every):
    with pytest.raises(RequestError, match="preview_every must be a whole number between 1 and 1000, or None"):
        engine.submit(request_of(), preview_every=every)


@pytest.mark.parametrize("sample", [-1, 2, True, "0"])
def test_a_sample_that_is_not_there_is_refused(engine, request_of, sample):
    event = next(engine.stream(request_of(samples=2), preview_every=1))
    with pytest.raises(RequestError, match="sample must be a whole number between 0 and 1"):
        event.preview(sample)


def test_each_request_has_its_own_previews_whoever_shares_its_batches(empty_registry, request_of):
    """Samples that wait for a slot are behind the others: previews come when all of them have one."""
    with intarsia.Engine("null", weights=empty_registry, slots=3) as engine:
        requests = [request_of(seed=seed, steps=4 + seed, samples=1 + seed, strength=1.0) for seed in range(4)]
        tickets = [engine.submit(request, preview_every=1 + seed) for seed, request in enumerate(requests)]
        for ticket in tickets:
            result, inside = ticket.result(), repainted(ticket)
            shown = [event for event in ticket.progress() if event.has_preview]
            assert shown[-1].step == shown[-1].steps
            for event in shown:
                for sample in range(len(result.images)):
                    preview = np.asarray(event.preview(sample))
                    np.testing.assert_array_equal(preview[inside], drawn_cells(result, sample)[inside])


def test_a_cancelled_request_has_no_later_previews_and_keeps_those_it_had(engine, request_of, gate):
    gate.permits.release()
    ticket = engine.submit(request_of(steps=40), preview_every=1)
    events = ticket.progress()
    first = next(events)
    ticket.cancel()
    gate.passed.set()
    with pytest.raises(intarsia.Cancelled):
        ticket.result(10)
    assert len(list(events)) <= 1, "the evaluation that was under way"
    engine.close()
    height, width = repainted(ticket).shape
    assert first.preview().size == (width, height)


def test_a_callback_gets_the_previews_in_the_engines_thread(engine, request_of, gate):
    found = []

    def progressed(progress: intarsia.Progress) -> None:
        if progress.has_preview:
            found.append((progress.step, progress.preview().mode, threading.current_thread().name))

    ticket = engine.submit(request_of(strength=1.0), preview_every=4)
    ticket.add_progress_callback(progressed)
    gate.passed.set()
    ticket.result(10)
    assert found == [(4, "RGB", "intarsia-engine"), (6, "RGB", "intarsia-engine")]


def test_a_callback_that_comes_late_gets_the_last_evaluation_first(engine, request_of, gate):
    steps: list[int] = []
    ticket = engine.submit(request_of(strength=1.0))
    gate.permits.release()
    next(ticket.progress())
    ticket.add_progress_callback(lambda progress: steps.append(progress.step))
    assert steps[:1] == [1]
    gate.passed.set()
    ticket.result(10)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_backend_without_previews_is_named(engine, request_of, monkeypatch):
    class Bare:
        """The five methods and no more."""

        def __init__(self, session: Any) -> None:
            self.runtime, self.encode, self.start = session.runtime, session.encode, session.start
            self.advance, self.decode, self.close = session.advance, session.decode, session.close

    opened = NullBackend.open
    monkeypatch.setattr(NullBackend, "open", lambda self, files: Bare(opened(self, files)))
    *events, result = engine.stream(request_of(), preview_every=1)
    assert len(result.images) == 1
    with pytest.raises(BackendError, match="backend null has no previews"):
        events[-1].preview()


def test_a_copy_that_fails_ends_the_previews_and_not_the_request(engine, request_of, monkeypatch):
    copy, copies = NullSession.snapshot, []

    def snapshot(self: NullSession, state: Any, shares: Any) -> Any:
        copies.append(shares)
        if len(copies) == 2:
            raise OutOfMemory("out of memory")
        return copy(self, state, shares)

    monkeypatch.setattr(NullSession, "snapshot", snapshot)
    *events, result = engine.stream(request_of(strength=1.0), preview_every=1)
    assert len(result.images) == 1
    assert [event.has_preview for event in events] == [True] + [False] * 5
    with pytest.raises(BackendError, match="no further previews: out of memory"):
        events[-1].preview()
    assert len(copies) == 2


def test_colors_that_cannot_be_fitted_end_the_previews_and_not_the_request(engine, request_of, monkeypatch):
    class Autoencoding(NullSession):
        def autoencode(self, image: np.ndarray) -> None:
            raise OutOfMemory("out of memory")

    monkeypatch.setattr(NullBackend, "open", lambda self, files: Autoencoding(files))
    *events, result = engine.stream(request_of(), preview_every=1)
    assert len(result.images) == 1
    with pytest.raises(BackendError, match="there are no previews: out of memory"):
        events[-1].preview()


def test_with_a_safety_checker_there_are_none(request_of):
    """It sees finished images alone; what it would flag must not be shown before."""
    with intarsia.Engine("null") as engine:
        *events, result = engine.stream(request_of(safety_checker=True), preview_every=1)
        assert len(result.images) == 1
        with pytest.raises(BackendError, match="safety checker"):
            events[-1].preview()
