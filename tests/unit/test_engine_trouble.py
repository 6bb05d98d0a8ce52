"""Requests that fail, are cancelled or interrupted, in every way of waiting for them; callbacks, threads, readers."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

import intarsia
from intarsia.backends.null import NullSession
from intarsia.engine import thread as engine_thread
from intarsia.engine.open_models import OpenModels
from intarsia.engine.ticket import Ticket
from intarsia.errors import EngineStopped
from tests.unit.endpoint_table import MINIMAL

PAYLOAD = {**MINIMAL, "width": 64, "height": 64, "base64": True, "num_inference_steps": 6}

WAYS = {
    "run": lambda engine, request: engine.run(request),
    "stream": lambda engine, request: list(engine.stream(request)),
    "submit": lambda engine, request: engine.submit(request).result(timeout=60),
    "reply": lambda engine, request: engine.reply(PAYLOAD, "community"),
}


def begun(function: Callable[..., Any], *arguments: object) -> tuple[threading.Thread, list[Any]]:
    """A call in a thread of its own, which holds nothing up if it does not come back: the thread, and its outcome."""
    outcome = []

    def call() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as exc:  # noqa: BLE001 - raised again by the test, if it is not the one expected
            outcome.append((None, exc))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread, outcome


def within(seconds: float, function: Callable[..., Any], *arguments: object) -> tuple[Any, BaseException | None]:
    """What the call gives or raises; one that does not come back fails the test."""
    thread, outcome = begun(function, *arguments)
    thread.join(seconds)
    assert outcome, "it waits for ever"
    return outcome[0]


def assert_ended_with(
    outcome: tuple[Any, BaseException | None], way: str, kind: type[Exception], sentence: str
) -> None:
    value, error = outcome
    if way == "reply":
        assert error is None
        assert (value["status"], value["message"]) == ("error", sentence)
    else:
        assert type(error) is kind
        assert str(error) == sentence


@pytest.mark.parametrize("way", WAYS)
def test_a_request_that_fails_between_its_steps_ends_with_the_error(engine, request_of, monkeypatch, way):
    steps = []

    def fail_at_the_second(self: NullSession, batch: Sequence[Any]) -> None:
        steps.append(len(batch))
        if len(steps) == 2:
            raise intarsia.BackendError("the device broke")

    with monkeypatch.context() as patch:
        patch.setattr(NullSession, "advance", fail_at_the_second)
        outcome = within(60, WAYS[way], engine, request_of())
    assert_ended_with(outcome, way, intarsia.BackendError, "the device broke")
    assert len(steps) == 2
    assert engine.run(request_of()).images, "the engine goes on"


@pytest.mark.parametrize("way", WAYS)
def test_a_request_that_is_cancelled_by_the_engines_end_says_so(engine, request_of, gate, way):
    def cancel() -> None:
        assert gate.reached.wait(60)
        closer = threading.Thread(target=engine.close, kwargs={"cancel": True})
        closer.start()
        while not engine._worker.cancel_all:
            time.sleep(0.001)
        gate.passed.set()
        closer.join(60)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    outcome = within(60, WAYS[way], engine, request_of())
    canceller.join(60)
    assert_ended_with(outcome, way, intarsia.Cancelled, "the request was cancelled")
    assert (gate.evaluations, gate.decoded) == (1, 0)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupt_is_raised_and_what_nobody_waits_for_is_not_computed(engine, request_of, gate, monkeypatch, way):
    monkeypatch.setitem(PAYLOAD, "num_inference_steps", 30)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is to ignore it
    sender = threading.Timer(0, lambda: gate.reached.wait(60) and os.kill(os.getpid(), signal.SIGINT))
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            WAYS[way](engine, request_of(steps=30))
    finally:
        sender.join(60)
        signal.signal(signal.SIGINT, before)
    gate.passed.set()
    engine.close()
    # who has called submit() has the ticket, and decides
    assert (gate.evaluations, gate.decoded) == ((21, 1) if way == "submit" else (1, 0))


def test_a_cancel_during_the_last_evaluation_keeps_it_from_being_decoded(engine, request_of, monkeypatch):
    submitted, decoded = threading.Event(), []
    tickets = []

    def cancel_at_the_last(self: NullSession, steps: Sequence[Any]) -> None:
        assert submitted.wait(60)
        if steps[0].row == 3:
            tickets[0].cancel()

    monkeypatch.setattr(NullSession, "advance", cancel_at_the_last)
    monkeypatch.setattr(NullSession, "decode", lambda self, states: decoded.append(states))
    tickets.append(engine.submit(request_of()))
    submitted.set()
    with pytest.raises(intarsia.Cancelled):
        tickets[0].result(timeout=60)
    assert decoded == []


def ticket_of(engine: intarsia.Engine, request: intarsia.InpaintRequest) -> Ticket:
    ticket = engine.submit(request)
    return Ticket(ticket.resolved, 0.0)


@pytest.mark.parametrize("end", ["finish", "fail", "drop"])
def test_whoever_is_first_decides_between_a_cancellation_and_an_end(engine, request_of, end):
    result = engine.run(request_of())
    given = {"finish": (result,), "fail": (ValueError("x"),), "drop": ()}[end]
    ticket = ticket_of(engine, request_of())
    assert ticket.cancel()
    assert ticket.cancel(), "asking again changes nothing"
    getattr(ticket, end)(*given)
    assert isinstance(ticket.exception(0), intarsia.Cancelled)
    assert not ticket.cancel()

    ticket = ticket_of(engine, request_of())
    asked = []
    ticket.add_done_callback(lambda done: asked.append(done.cancel()))
    getattr(ticket, end)(*given)
    ticket.finish(result)
    ticket.fail(KeyError("too late"))
    assert asked == [False]
    assert type(ticket.exception(0)) is {"finish": type(None), "fail": ValueError, "drop": intarsia.Cancelled}[end]


def test_a_cancel_between_the_decision_and_the_result_is_too_late(engine, request_of, monkeypatch):
    result, asked, set_result = engine.run(request_of()), [], Ticket.set_result

    def cancel_first(self: Ticket, value: intarsia.Result) -> None:
        asked.append(self.cancel())
        set_result(self, value)

    monkeypatch.setattr(Ticket, "set_result", cancel_first)
    ticket = ticket_of(engine, request_of())
    ticket.finish(result)
    assert asked[0] is False
    assert ticket.result(0) is result


def test_cancel_is_true_exactly_where_the_result_does_not_come(engine, request_of):
    rng = random.Random(1)
    made = request_of(steps=2, strength=1.0)
    answers = set()
    for _ in range(120):
        ticket = engine.submit(made)
        for _ in range(rng.randrange(400)):
            pass
        for _ in itertools.islice(ticket.progress(), rng.randrange(4)):  # the third is none: the request is over
            pass
        cancelled = ticket.cancel()
        answers.add(cancelled)
        assert isinstance(ticket.exception(timeout=60), intarsia.Cancelled) == cancelled
    assert answers == {True, False}


def test_every_reader_of_progress_sees_all_of_it_and_its_end(engine, request_of, gate):
    ticket = engine.submit(request_of())
    readers = [begun(lambda: [event.step for event in ticket.progress()]) for _ in range(4)]
    gate.passed.set()
    for thread, _ in readers:
        thread.join(60)
    assert [outcome for _, outcome in readers] == [[([1, 2, 3, 4], None)]] * 4
    assert ticket.result(timeout=60).images
    assert within(60, lambda: [event.step for event in ticket.progress()]) == ([1, 2, 3, 4], None)


def test_progress_says_the_slowest_of_a_requests_images_and_no_step_twice(empty_registry, request_of, monkeypatch):
    reported, original = [], Ticket.report

    def report(self: Ticket, step: Any, previews: Any) -> None:
        reported.append(step)
        original(self, step, previews)

    monkeypatch.setattr(Ticket, "report", report)
    with intarsia.Engine("null", weights=empty_registry, slots=2) as engine:
        *events, _ = engine.stream(request_of(samples=3))
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert reported == [0, 0, 0, 0, 1, 2, 3, 4], "two pictures while the third waits, then the third"


def test_a_stream_of_two_readers_is_refused_or_shared_but_ends(engine, request_of):
    events = engine.stream(request_of())
    readers = [begun(lambda: [type(event).__name__ for event in events]) for _ in range(2)]
    seen = []
    for thread, outcome in readers:
        thread.join(60)
        [(names, error)] = outcome
        assert error is None or (isinstance(error, ValueError) and "already executing" in str(error))
        seen += names or []
    assert "Result" in seen


def test_a_callback_that_waits_for_its_engine_is_refused_and_one_that_submits_is_not(empty_registry, request_of):
    engine = intarsia.Engine("null", weights=empty_registry)  # closed at the end only: one that hangs cannot be
    refused, later, called = [], [], threading.Event()

    def wait_in_every_way(done: Future[intarsia.Result]) -> None:
        other = engine.submit(request_of(seed=2))
        later.append(other)
        waits = (
            lambda: engine.run(request_of()), lambda: next(engine.stream(request_of())), other.result,
            lambda: other.exception(timeout=60), lambda: next(other.progress()),
        )  # fmt: skip
        for wait in waits:
            try:
                refused.append(wait())
            except intarsia.BackendError as exc:
                refused.append(str(exc))
        refused.append(engine.reply(PAYLOAD, "community")["message"])
        refused.append(done.result().seeds)
        called.set()

    ticket = engine.submit(request_of(seed=1))
    ticket.add_done_callback(wait_in_every_way)
    assert called.wait(60), "the engine waits for itself"
    sentence = "a callback cannot wait for the engine that calls it; submit there instead"
    assert refused == [sentence] * 6 + [(1,)]
    assert later[0].result(timeout=60).seeds == (2,)
    engine.close()


def test_a_callback_may_wait_for_another_engine(engine, request_of, empty_registry):
    waited, called = [], threading.Event()
    with intarsia.Engine("null", weights=empty_registry) as other:
        ticket = engine.submit(request_of())
        ticket.add_done_callback(lambda done: (waited.append(other.run(request_of(seed=5)).seeds), called.set()))
        assert called.wait(60)
    assert waited == [(5,)]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ValueError("x")])
def test_what_a_callback_raises_is_logged_and_ends_nothing(engine, request_of, gate, caplog, error):
    called = []

    def fail(done: Future[intarsia.Result]) -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        ticket = engine.submit(request_of())
        ticket.add_done_callback(fail)
        ticket.add_done_callback(called.append)
        gate.passed.set()
        assert ticket.result(timeout=60).images
        assert engine.run(request_of()).images, "the engine goes on"
    assert called == [ticket]
    assert type(error).__name__ in caplog.text
    if not isinstance(error, Exception):
        with pytest.raises(type(error)):
            ticket.add_done_callback(fail)  # called at once, here


def failing_starts(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int) -> None:
    start, left = threading.Thread.start, [times]

    def fail(self: threading.Thread) -> None:
        if self.name == "intarsia-engine" and left[0]:
            left[0] -= 1
            raise error
        start(self)

    monkeypatch.setattr(threading.Thread, "start", fail)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
@pytest.mark.parametrize("way", WAYS)
def test_a_thread_that_cannot_start_fails_requests_until_it_can(
    engine, empty_registry, request_of, monkeypatch, way, error
):
    failing_starts(monkeypatch, error, 2)
    sentence = f"thread intarsia-engine cannot be started: {str(error) or 'MemoryError'}"
    for _ in range(2):
        assert_ended_with(within(60, WAYS[way], engine, request_of()), way, intarsia.BackendError, sentence)
    assert engine._thread not in engine_thread._running
    assert within(60, engine.run, request_of())[0].images


def test_an_engine_whose_thread_cannot_start_closes_and_hides_nothing(empty_registry, request_of, monkeypatch):
    failing_starts(monkeypatch, RuntimeError("can't start new thread"), 1)
    with (
        pytest.raises(intarsia.BackendError, match="can't start"),
        intarsia.Engine("null", weights=empty_registry) as engine,
    ):
        engine.run(request_of())
    engine.close()
    with pytest.raises(intarsia.BackendError, match="the engine is closed"):
        engine.submit(request_of())


def test_a_start_that_is_interrupted_leaves_one_thread_at_work(engine, request_of, monkeypatch):
    start = threading.Thread.start

    def start_and_be_interrupted(self: threading.Thread) -> None:
        start(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.submit(request_of())
    for seed in range(3):
        assert within(60, engine.run, request_of(seed=seed))[0].seeds == (seed,)
    assert engine.counters.evaluations == 3 * 4


def test_a_handler_of_a_signal_may_close_the_engine_at_any_point_of_a_submission(engine, request_of, monkeypatch):
    """Between the queue and its lock too; the request is refused or answered, and nobody waits."""
    inbox = engine._thread._inbox
    engine.run(request_of())

    class Closing:
        def __getattr__(self, name: str) -> Any:
            return getattr(inbox, name)

        def put(self, tickets: tuple[Ticket, ...] | None) -> None:
            if tickets is not None:
                engine.close()
            inbox.put(tickets)

    monkeypatch.setattr(engine._thread, "_inbox", Closing())
    assert_ended_with(within(60, engine.run, request_of()), "run", EngineStopped, "the engine is closed")


def test_what_is_queued_behind_the_end_is_refused(engine, request_of, gate):
    first = engine.submit(request_of())
    assert gate.reached.wait(60)
    engine._thread.end()
    late = Ticket(first.resolved, 0.0)
    engine._thread._inbox.put((late,))
    gate.passed.set()
    assert first.result(timeout=60).images
    assert str(late.exception(timeout=60)) == "the engine is closed"


def test_an_engine_that_is_dropped_finishes_what_is_in_flight_and_ends(empty_registry, request_of, gate, monkeypatch):
    closed = []
    monkeypatch.setattr(NullSession, "close", lambda self: closed.append(weakref.ref(self)))
    engine = intarsia.Engine("null", weights=empty_registry)
    loop, ticket = engine._thread, engine.submit(request_of())
    assert gate.reached.wait(60)
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None, "nothing that works holds the engine"
    assert loop.join(0) is False
    gate.passed.set()
    assert ticket.result(timeout=60).images
    assert loop.join(60)
    del loop, ticket
    gc.collect()
    assert [session() for session in closed] == [None], "its model is freed"


def test_a_ticket_is_freed_with_its_last_reference(engine, request_of):
    ticket = engine.submit(request_of())
    ticket.add_done_callback(lambda done: None)
    ticket.result(timeout=60)
    engine.close()
    gc.disable()
    try:
        gone = weakref.ref(ticket)
        del ticket
        assert gone() is None, "pictures would stay until the next collection"
    finally:
        gc.enable()


@pytest.mark.parametrize("strength", [0.0, 0.7])
def test_an_idle_engine_keeps_no_request(engine, request_of, strength):
    ticket = engine.submit(request_of(strength=strength))
    ticket.result(timeout=60)
    gone = weakref.ref(ticket)
    del ticket
    until = time.monotonic() + 20  # its thread may be on the way back from the callbacks
    while gone() is not None and time.monotonic() < until:
        time.sleep(0.001)
    assert gone() is None


def test_what_is_cancelled_before_it_is_admitted_opens_nothing(engine, request_of, gate, monkeypatch):
    first = engine.submit(request_of())
    assert gate.reached.wait(60)
    opened = []
    monkeypatch.setattr(OpenModels, "checker", lambda self, resolved: opened.append(resolved))
    second = engine.submit(request_of(strength=0.0))
    assert second.cancel()
    gate.passed.set()
    assert isinstance(second.exception(timeout=60), intarsia.Cancelled)
    assert first.result(timeout=60).images
    assert second.resolved not in opened


def test_64_threads_of_every_kind_of_use_all_come_back(empty_registry, request_of):
    """For two seconds; what they get is what a request alone gives, or that it was cancelled."""
    made = [request_of(seed=seed, steps=2 + seed) for seed in range(4)]
    until = time.monotonic() + 2
    wrong = []

    def use(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            seed = rng.randrange(4)
            how = rng.choice(["run", "stream", "leave", "cancel", "callback"])
            if how == "run":
                seen = engine.run(made[seed]).images[0].tobytes()
            elif how == "stream":
                *_, result = engine.stream(made[seed])
                seen = result.images[0].tobytes()
            elif how == "leave":
                next(engine.stream(made[seed]))
                continue
            else:
                ticket = engine.submit(made[seed])
                if how == "callback":
                    ticket.add_done_callback(lambda done: engine.submit(made[0]).cancel())
                cancelled = how == "cancel" and ticket.cancel()
                error = ticket.exception(timeout=60)
                if cancelled != isinstance(error, intarsia.Cancelled):
                    wrong.append((how, cancelled, error))
                if error is not None:
                    continue
                seen = ticket.result().images[0].tobytes()
            if seen != expected[seed]:
                wrong.append((how, seed))

    with intarsia.Engine("null", weights=empty_registry) as engine:
        expected = [engine.run(each).images[0].tobytes() for each in made]
        threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
